"""Converts texts to ids as the declaration in a store's layout says."""

from __future__ import annotations

import re
from typing import Any

import numpy as np

from serving.stores.layout import Layout

_DECIMAL = re.compile("-?[0-9]{1,19}")


class Texts:
    """Replaces texts by ids.

    Keys and features that are declared as texts are hashed
    (`schemas.hashing`); for all others, a text is a decimal number.
    """

    def __init__(self, layout: Layout) -> None:
        self._fields = layout.declared.texts() if layout.declared else {}

    def ids(self, name: str, field: str, values: Any) -> Any:
        """Returns values of any shape with ids instead of texts.

        Args:
            name: `user_id`, `item_id`, `user_<f>` or `behavior_<f>`.
            field: name of the field in errors.
            values: one value, or lists of values.

        Raises:
            ValueError: a text is given where numbers are declared.
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
