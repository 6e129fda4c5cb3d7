"""Ids of texts, by the declaration of a store's layout."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from serving.stores.layout import Layout

_DECIMAL = re.compile("-?[0-9]{1,19}")


class Texts:
    """Puts ids in the place of texts.

    Keys and features that are declared as texts are hashed
    (`schemas.hashing`); others take decimal numbers.
    """

    def __init__(self, layout: Layout) -> None:
        self._fields = layout.declared.texts() if layout.declared else {}

    def ids(self, name: str, field: str, values: Any) -> Any:
        """Returns values of any shape; what is no text is left as it is.

        Args:
            name: `user_id`, `item_id`, `user_<f>` or `behavior_<f>`.
            field: what an error names.
            values: one, or lists of them.

        Raises:
            ValueError: a text where numbers are declared.
        """
        if isinstance(values, str):
            return self._id(name, field, values)
        if isinstance(values, np.ndarray) and values.dtype.kind in "OU":
            values = values.tolist()
        if isinstance(values, (list, tuple)) and set(map(type, values)) & {
            *(str, list, tuple, np.ndarray),
        }:
            return [self.ids(name, field, one) for one in values]
        return values

    def _id(self, name: str, field: str, text: str) -> int:
        if name in self._fields and (text or not name.endswith("_id")):
            from schemas.hashing import stable_id

            return stable_id(self._fields[name], text)
        if name in self._fields:
            raise ValueError(f"{field}: expected a text. Received: none")
        if not _DECIMAL.fullmatch(text):
            raise ValueError(
                f"{field}: expected a whole number, as no texts are declared "
                f"for the store's {name}. Received: {text!r}"
            )
        return int(text)
