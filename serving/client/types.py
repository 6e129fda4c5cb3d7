"""Requests and results."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from serving.client.errors import RequestError

__all__ = [
    "EmbedResult",
    "ExplainResult",
    "ModelMetadata",
    "RankRequest",
    "RankResult",
    "Signature",
    "TensorSpec",
    "VersionStatus",
]

PROFILE_SIZE = 5
_INT64 = np.iinfo(np.int64)
IntegerList = Sequence[int] | np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class RankRequest:
    """One user and the items to score for them.

    Lists become int64 arrays; anything that is not whole numbers of 64 bits
    is refused when the request is made.

    Attributes:
        user_id: the user.
        user_profile: five profile ids; 0 where unknown.
        behavior_item_ids: items of the history, oldest first; may be empty.
        behavior_category_ids: their categories, as long as that.
        candidate_item_ids: items to score, at least one, none of them 0.

    Raises:
        RequestError: a field is not as described.
    """

    user_id: int
    user_profile: IntegerList
    behavior_item_ids: IntegerList
    behavior_category_ids: IntegerList
    candidate_item_ids: IntegerList

    def __post_init__(self) -> None:
        """Checks the values; see the class."""
        object.__setattr__(self, "user_id", whole_number(self.user_id))
        object.__setattr__(
            self, "user_profile", check_profile(self.user_profile)
        )
        for name in (
            "behavior_item_ids",
            "behavior_category_ids",
            "candidate_item_ids",
        ):
            object.__setattr__(self, name, id_array(name, getattr(self, name)))
        if len(self.behavior_item_ids) != len(self.behavior_category_ids):
            raise RequestError(
                "behavior_category_ids",
                f"be as long as behavior_item_ids, "
                f"{len(self.behavior_item_ids)}",
                f"{len(self.behavior_category_ids)} ids",
            )
        check_candidates(np.asarray(self.candidate_item_ids))


def whole_number(value: object, field: str = "user_id") -> int:
    """A number as an int of 64 bits.

    Args:
        value: the number.
        field: its name, for errors.

    Raises:
        RequestError: it is not a whole number, or does not fit.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise RequestError(field, "be a whole number", value)
    if not _INT64.min <= value <= _INT64.max:
        raise RequestError(field, "fit into 64 bits", value)
    return int(value)


def check_profile(values: IntegerList) -> np.ndarray:
    """Profile ids as an int64 array (5,).

    Args:
        values: the ids.

    Raises:
        RequestError: they are not five whole numbers.
    """
    profile = id_array("user_profile", values)
    if len(profile) != PROFILE_SIZE:
        raise RequestError(
            "user_profile", f"hold {PROFILE_SIZE} ids", f"{len(profile)} ids"
        )
    return profile


def id_array(field: str, values: IntegerList) -> np.ndarray:
    """Ids as an int64 array.

    Args:
        field: name, for errors.
        values: whole numbers, one-dimensional.

    Raises:
        RequestError: they are something else.
    """
    expected = "be a list of whole numbers of 64 bits"
    try:
        array = np.asarray(values)
    except (ValueError, OverflowError) as error:
        raise RequestError(field, expected, values) from error
    if array.ndim != 1:
        raise RequestError(field, expected + ", one-dimensional", values)
    if array.size == 0:
        return np.zeros(0, np.int64)
    if array.dtype.kind not in "iu":
        raise RequestError(field, expected, values)
    if array.dtype == np.uint64 and array.max() > _INT64.max:
        raise RequestError(field, expected, values)
    return np.ascontiguousarray(array, np.int64)


def check_candidates(ids: np.ndarray) -> None:
    """Refuses no candidates, and the padding id among them.

    Args:
        ids: int64 array.

    Raises:
        RequestError: there are none, or one is 0.
    """
    if ids.size == 0:
        raise RequestError("candidate_item_ids", "hold at least one id", [])
    if not ids.all():
        position = int(np.argmin(ids != 0))
        raise RequestError(
            "candidate_item_ids",
            "not contain 0, which means padding",
            f"0 at position {position}",
        )


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
    """Scores of one request, and what they rest on.

    Attributes:
        behavior_indices: int32 (C, K), positions in the caller's history of
            the behaviours that were retrieved; -1 where there was none.
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
