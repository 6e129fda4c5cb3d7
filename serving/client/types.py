"""Requests and results."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serving.client.errors import RequestError
from serving.client.feature_values import (
    Value,
    Values,
    features_of_each,
    features_of_one,
)

_INT64 = np.iinfo(np.int64)
CLICK = "click"
"""Name of the first label."""
IntegerList = Sequence[int] | np.ndarray
Id = int | str
IdList = Sequence[int] | Sequence[str] | np.ndarray
"""An id: a number, a text as declared for the key, or a decimal number."""


@dataclasses.dataclass(frozen=True, eq=False)
class RankRequest:
    """A user and the items to score.

    Ids are whole numbers of 64 bits, or texts. Features have the names that
    the model declares; features that are not given are missing. A value is a
    number, a text, None, or a list of these. Values are compared with the
    model's inputs when the request is sent.

    Attributes:
        user_id: the user.
        candidate_item_ids: items to score, at least one, without 0.
        behavior_item_ids: items of the history, oldest first; may be empty.
        user: features of the user.
        behaviors: features of the behaviors, each as long as
            `behavior_item_ids`.
        context: features of the request.
        candidates: features of the candidates, each as long as
            `candidate_item_ids`.

    Raises:
        RequestError: a field has a wrong value.
    """

    user_id: Id
    candidate_item_ids: IdList
    behavior_item_ids: IdList = ()
    user: Mapping[str, Value] = dataclasses.field(default_factory=dict)
    behaviors: Mapping[str, Values] = dataclasses.field(default_factory=dict)
    context: Mapping[str, Value] = dataclasses.field(default_factory=dict)
    candidates: Mapping[str, Values] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        items = id_array("behavior_item_ids", self.behavior_item_ids)
        length = ("behavior_item_ids", len(items))
        set_checked(
            self,
            behavior_item_ids=items,
            user=features_of_one("user", self.user),
            behaviors=features_of_each("behaviors", self.behaviors, length),
            **scoring_fields(self),
        )


def scoring_fields(request: Any) -> dict[str, Any]:
    """Returns the checked fields that all scoring requests have."""
    items = item_array("candidate_item_ids", request.candidate_item_ids)
    return {
        "user_id": one_id(request.user_id),
        "candidate_item_ids": items,
        "context": features_of_one("context", request.context),
        "candidates": features_of_each(
            "candidates",
            request.candidates,
            ("candidate_item_ids", len(items)),
        ),
    }


def set_checked(request: object, **values: object) -> None:
    """Sets fields of a frozen request to their checked values."""
    for name, value in values.items():
        object.__setattr__(request, name, value)


def whole_number(value: object, field: str = "user_id") -> int:
    """Returns a number as an int of 64 bits, or raises `RequestError`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise RequestError(field, "be a whole number", value)
    if not _INT64.min <= value <= _INT64.max:
        raise RequestError(field, "fit into 64 bits", value)
    return int(value)


def one_id(value: object, field: str = "user_id") -> Id:
    """Returns an int of 64 bits or a text, or raises `RequestError`."""
    if isinstance(value, str) and value:
        return value
    try:
        return whole_number(value, field)
    except RequestError as error:
        expected = f"{error.expected}, or be a text"
        raise RequestError(field, expected, value) from None


def id_array(
    field: str, values: IdList, as_long_as: tuple[str, int] | None = None
) -> np.ndarray:
    """Returns ids as int64 (N,), or texts (N,); raises `RequestError`.

    `as_long_as` is the name and the length of another field.
    """
    expected = "be a list of whole numbers of 64 bits, or of texts"
    # NumPy converts true to 1 beside numbers, and 1 to a text beside texts, so
    # the types are checked first.
    kinds = set() if isinstance(values, np.ndarray) else set(map(type, values))
    if bool in kinds or (len(kinds) > 1 and str in kinds):
        raise RequestError(field, expected, values)
    try:
        array = np.asarray(values, object if kinds == {str} else None)
    except (ValueError, OverflowError) as error:
        raise RequestError(field, expected, values) from error
    if array.ndim != 1:
        raise RequestError(field, expected + ", one-dimensional", values)
    texts = array.dtype.kind in "OU" and set(map(type, array.tolist())) == {str}
    if array.size and not texts:
        if array.dtype.kind not in "iu" or (
            array.dtype == np.uint64 and array.max() > _INT64.max
        ):
            raise RequestError(field, expected, values)
    if as_long_as is not None and len(array) != as_long_as[1]:
        raise RequestError(
            field,
            "be as long as {}, {}".format(*as_long_as),
            f"{len(array)} ids",
        )
    return np.ascontiguousarray(array, object if texts else np.int64)


def some_ids(field: str, values: IdList) -> np.ndarray:
    """Returns at least one id, (N,), or raises `RequestError`."""
    ids = id_array(field, values)
    if ids.size == 0:
        raise RequestError(field, "hold at least one id", [])
    return ids


def item_array(field: str, values: IdList) -> np.ndarray:
    """Returns at least one id, without missing ones, or `RequestError`."""
    ids = some_ids(field, values)
    if not ids.all():
        empty = int(np.argmin(ids.astype(bool)))
        raise RequestError(
            field,
            "not contain 0, which means padding",
            f"{ids.item(empty)!r} at position {empty}",
        )
    return ids


@dataclasses.dataclass(frozen=True, eq=False)
class RankResult:
    """Scores of one request.

    Attributes:
        candidate_item_ids: (C,), as the caller gave them.
        click_probability: float32 (C,), in the order of the ids,
            of the first label.
        probabilities: float32 (C,) by label; the first one is `click`.
    """

    candidate_item_ids: np.ndarray
    click_probability: np.ndarray
    probabilities: Mapping[str, np.ndarray] = dataclasses.field(
        default_factory=dict, kw_only=True
    )

    def __post_init__(self) -> None:
        clicks = {CLICK: self.click_probability}
        others = {**clicks, **self.probabilities}
        set_checked(self, probabilities=others | clicks)

    def order(self) -> np.ndarray:
        """Indices of the candidates, best first; ties keep their order."""
        return np.argsort(-self.click_probability, kind="stable")


@dataclasses.dataclass(frozen=True, eq=False)
class ExplainResult(RankResult):
    """Scores of one request, and the behaviors behind them.

    Attributes:
        behavior_indices: int32 (C, K), positions of the retrieved behaviors in
            the given history, or -1 for none.
        similarities: float32 (C, K), their cosine with the candidate.
        attention: float32 (C, K), their weights in the interest.
        retrieved: bool (C, K), whether there is a behavior.
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
    """State of a model version.

    Attributes:
        version: version number.
        state: `START`, `LOADING`, `AVAILABLE`, `UNLOADING` or `END`.
        code: `OK`, or the status code of the error that ended it.
        message: text of the error.
    """

    version: int
    state: str
    code: str = "OK"
    message: str = ""


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """An input or output of a signature.

    Attributes:
        dtype: TensorFlow's name of the type: `int64`, `float`, `string` …
        shape: sizes, with -1 for any size; None for any rank.
    """

    dtype: str
    shape: tuple[int, ...] | None


@dataclasses.dataclass(frozen=True)
class Signature:
    """A callable function of a model.

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
    """The signatures of a model version.

    Attributes:
        name: model name.
        version: version number.
        signatures: name to signature.
    """

    name: str
    version: int
    signatures: Mapping[str, Signature]
