"""What a client knows of the declaration of the data.

The metadata of a model say int64, but not whether the ids are numbers or the
hashes of texts. Its declaration does.
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
    """Makes ids of texts.

    Keys and features that the declaration says are texts are hashed. All
    others take decimal numbers, which keep 64 bits where JSON would not.

    Args:
        schema: the declaration, its file, or the name of a preset; None if it
            is not known, which leaves decimal numbers alone.
    """

    def __init__(
        self, schema: RankingSchema | str | os.PathLike[str] | None = None
    ) -> None:
        if isinstance(schema, (str, os.PathLike)):
            from schemas import ranking_schema

            schema = ranking_schema.named(os.fspath(schema))
        self.schema = schema

    def learn(self, schema: RankingSchema | None) -> None:
        """Takes another declaration, for all that share this object."""
        self.schema = schema
        for name in ("_texts", "_features"):
            self.__dict__.pop(name, None)

    def ids(self, name: str, field: str, values: Any) -> np.ndarray:
        """Returns keys as int64 (N,); raises `RequestError`.

        Args:
            name: `user_id` or `item_id`.
            field: what an error names.
            values: int64 (N,), or texts.
        """
        if isinstance(values, np.ndarray) and values.dtype == np.int64:
            return values
        return self._hashed(name, field, values)

    def id(self, name: str, field: str, value: int | str) -> int:
        """Returns a key, or a value of a feature, as a number."""
        if isinstance(value, int):
            return value
        return int(self._hashed(name, field, [value])[0])

    def feature(self, name: str) -> Feature | None:
        """Returns the feature behind an input of a signature, if declared."""
        return self._features.get(name)

    def _hashed(
        self, name: str, field: str, texts: Sequence[str]
    ) -> np.ndarray:
        hashed_as = self._texts.get(name)
        if hashed_as is not None:
            from schemas.hashing import stable_ids

            return stable_ids(hashed_as, texts)
        return np.array([self._decimal(field, one) for one in texts], np.int64)

    def _decimal(self, field: str, text: str) -> int:
        if _DECIMAL.fullmatch(text):
            value = int(text)
            if _INT64.min <= value <= _INT64.max:
                return value
        why = (
            "texts need the declaration, schema"
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
