"""The declaration of the data, as far as a client needs it.

A model's metadata say int64 for ids; only the declaration tells whether these
ids are numbers or hashes of texts.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from serving.client.errors import RequestError

if TYPE_CHECKING:
    from schemas.columns import Feature
    from schemas.ranking_schema import RankingSchema

_DECIMAL = re.compile("-?[0-9]{1,19}")
_INT64 = np.iinfo(np.int64)


class Declaration:
    """Converts texts to ids.

    Texts are hashed for keys and features that are declared as texts. For all
    others, a text is a decimal number, which unlike JSON keeps 64 bits.

    Args:
        schema: the declaration, its file, or the name of a preset; None if it
            is not known, so that only decimal numbers are accepted.
    """

    def __init__(
        self, schema: RankingSchema | str | os.PathLike[str] | None = None
    ) -> None:
        if isinstance(schema, (str, os.PathLike)):
            from schemas import ranking_schema

            schema = ranking_schema.named(os.fspath(schema))
        self.schema = schema

    def learn(self, schema: RankingSchema | None) -> None:
        """Replaces the declaration for all users of this object."""
        self.schema = schema
        for name in ("_texts", "_features"):
            self.__dict__.pop(name, None)

    def ids(self, name: str, field: str, values: Any) -> np.ndarray:
        """Returns keys as int64 (N,); raises `RequestError`.

        Args:
            name: `user_id` or `item_id`.
            field: name of the field in errors.
            values: int64 (N,), or N texts.
        """
        if isinstance(values, np.ndarray) and values.dtype == np.int64:
            return values
        return self._hashed(name, field, values)

    def id(self, name: str, field: str, value: int | str) -> int:
        """Returns a key or a feature's value as int; raises `RequestError`."""
        if isinstance(value, int):
            return value
        return int(self._hashed(name, field, [value])[0])

    def feature(self, name: str) -> Feature | None:
        """Returns the declared feature of a signature's input, or None."""
        return self._features.get(name)

    def _hashed(
        self, name: str, field: str, texts: Sequence[str]
    ) -> np.ndarray:
        hashed_as = self._texts.get(name)
        if hashed_as is not None:
            from schemas.hashing import stable_ids

            try:
                return stable_ids(hashed_as, texts)
            except UnicodeEncodeError as error:
                raise RequestError(
                    field, "be valid Unicode", ascii(error.object)
                ) from error
        return np.array([self._decimal(field, one) for one in texts], np.int64)

    def _decimal(self, field: str, text: str) -> int:
        if _DECIMAL.fullmatch(text):
            value = int(text)
            if _INT64.min <= value <= _INT64.max:
                return value
        why = (
            "for texts, give the declaration as schema"
            if self.schema is None
            else "the declaration says int64"
        )
        raise RequestError(field, f"be a whole number of 64 bits ({why})", text)

    @functools.cached_property
    def _texts(self) -> dict[str, str]:
        if self.schema is None:
            return {}
        texts = self.schema.texts()
        return texts | {
            f"candidate_{name}": texts[f"item_{name}"]
            for name in self.schema.features.item
            if f"item_{name}" in texts
        }

    @functools.cached_property
    def _features(self) -> dict[str, Feature]:
        if self.schema is None:
            return {}
        given = self.schema.features
        return {
            **{f"candidate_{name}": one for name, one in given.item.items()},
            **given.learned(),
            **{
                f"behavior_{name}": given.of_behavior(name)
                for name in given.behavior
            },
        }
