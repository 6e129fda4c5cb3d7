"""Requests and results."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serving.client.errors import RequestError

_INT64 = np.iinfo(np.int64)
IntegerList = Sequence[int] | np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class RankRequest:
    """One user and the items to score for them.

    Lists become int64 arrays; anything that is not whole numbers of 64 bits
    is refused when the request is made. Features go by the names that the
    model declares; one that is left out is missing, which is 0.

    Attributes:
        user_id: the user.
        candidate_item_ids: items to score, at least one, none of them 0.
        behavior_item_ids: items of the history, oldest first; may be empty.
        user: raw ids of features of the user.
        behaviors: raw ids of features of the behaviors, each as long as
            `behavior_item_ids`.

    Raises:
        RequestError: a field is not as described.
    """

    user_id: int
    candidate_item_ids: IntegerList
    behavior_item_ids: IntegerList = ()
    user: Mapping[str, int] = dataclasses.field(default_factory=dict)
    behaviors: Mapping[str, IntegerList] = dataclasses.field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        items = id_array("behavior_item_ids", self.behavior_item_ids)
        length = ("behavior_item_ids", len(items))
        set_checked(
            self,
            user_id=whole_number(self.user_id),
            candidate_item_ids=item_array(
                "candidate_item_ids", self.candidate_item_ids
            ),
            behavior_item_ids=items,
            user=user_features(self.user),
            behaviors=list_features("behaviors", self.behaviors, length),
        )


def set_checked(request: object, **values: object) -> None:
    """Sets fields of a frozen request to what was made of them."""
    for name, value in values.items():
        object.__setattr__(request, name, value)


def whole_number(value: object, field: str = "user_id") -> int:
    """Returns a number as an int of 64 bits, or raises `RequestError`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise RequestError(field, "be a whole number", value)
    if not _INT64.min <= value <= _INT64.max:
        raise RequestError(field, "fit into 64 bits", value)
    return int(value)


def user_features(features: Mapping[str, int]) -> dict[str, int]:
    """Returns features of a user by name, or raises `RequestError`."""
    return {
        name: whole_number(value, f"user[{name!r}]")
        for name, value in _by_name("user", features).items()
    }


def list_features(
    field: str,
    features: Mapping[str, IntegerList],
    as_long_as: tuple[str, int],
) -> dict[str, np.ndarray]:
    """Returns lists of ids by name, or raises `RequestError`.

    `as_long_as` is another field, and its length.
    """
    return {
        name: id_array(f"{field}[{name!r}]", ids, as_long_as)
        for name, ids in _by_name(field, features).items()
    }


def _by_name(field: str, features: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(features, Mapping):
        raise RequestError(field, "map names of features to ids", features)
    return features


def id_array(
    field: str, values: IntegerList, as_long_as: tuple[str, int] | None = None
) -> np.ndarray:
    """Returns ids as int64 (N,), or raises `RequestError`.

    `as_long_as` is another field, and its length.
    """
    expected = "be a list of whole numbers of 64 bits"
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError) as error:
        raise RequestError(field, expected, values) from error
    if array.ndim != 1:
        raise RequestError(field, expected + ", one-dimensional", values)
    # NumPy takes true for 1 where numbers stand beside it.
    if not isinstance(values, np.ndarray) and bool in set(map(type, values)):
        raise RequestError(field, expected, values)
    if array.size and (
        array.dtype.kind not in "iu"
        or (array.dtype == np.uint64 and array.max() > _INT64.max)
    ):
        raise RequestError(field, expected, values)
    if as_long_as is not None and len(array) != as_long_as[1]:
        raise RequestError(
            field,
            "be as long as {}, {}".format(*as_long_as),
            f"{len(array)} ids",
        )
    return np.ascontiguousarray(array, np.int64)


def some_ids(field: str, values: IntegerList) -> np.ndarray:
    """Returns at least one id as int64 (N,), or raises `RequestError`."""
    ids = id_array(field, values)
    if ids.size == 0:
        raise RequestError(field, "hold at least one id", [])
    return ids


def item_array(field: str, values: IntegerList) -> np.ndarray:
    """Returns at least one id, none of them 0, or raises `RequestError`."""
    ids = some_ids(field, values)
    if not ids.all():
        raise RequestError(
            field,
            "not contain 0, which means padding",
            f"0 at position {int(np.argmin(ids != 0))}",
        )
    return ids


@dataclasses.dataclass(frozen=True, eq=False)
class RankResult:
    """Scores of one request.

    Attributes:
        candidate_item_ids: int64 (C,), as the caller gave them.
        click_probability: float32 (C,), in the same order.
    """

    candidate_item_ids: np.ndarray
    click_probability: np.ndarray

    def order(self) -> np.ndarray:
        """Positions of the candidates, best first; equal ones in order."""
        return np.argsort(-self.click_probability, kind="stable")


@dataclasses.dataclass(frozen=True, eq=False)
class ExplainResult(RankResult):
    """Scores of one request, and the behaviors behind them.

    Attributes:
        behavior_indices: int32 (C, K), positions in the caller's history of
            the retrieved behaviors; -1 where there was none.
        similarities: float32 (C, K), their cosine with the candidate.
        attention: float32 (C, K), their share in the interest.
        retrieved: bool (C, K), whether there was one.
        tiers: float32 (C, T), similarity histogram.
    """

    behavior_indices: np.ndarray
    similarities: np.ndarray
    attention: np.ndarray
    retrieved: np.ndarray
    tiers: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class EmbedResult:
    """Vectors of items.

    Attributes:
        embedding: float32 (N, D).
        found: bool (N,), whether the item has a vector.
    """

    embedding: np.ndarray
    found: np.ndarray


@dataclasses.dataclass(frozen=True)
class VersionStatus:
    """State of a version.

    Attributes:
        version: its number.
        state: `START`, `LOADING`, `AVAILABLE`, `UNLOADING` or `END`.
        code: `OK`, or why it ended.
        message: text for that.
    """

    version: int
    state: str
    code: str = "OK"
    message: str = ""


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """An input or output of a signature.

    Attributes:
        dtype: TensorFlow's name of the type, `int64`, `float`, `string` …
        shape: sizes, -1 for any; None for any rank.
    """

    dtype: str
    shape: tuple[int, ...] | None


@dataclasses.dataclass(frozen=True)
class Signature:
    """A callable part of a model.

    Attributes:
        inputs: name to tensor.
        outputs: name to tensor.
        method: method name.
    """

    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    method: str = ""


@dataclasses.dataclass(frozen=True)
class ModelMetadata:
    """What a version can do.

    Attributes:
        name: model name.
        version: version number.
        signatures: name to signature.
    """

    name: str
    version: int
    signatures: Mapping[str, Signature]
