"""Requests to the model that finds candidates, and its answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from serving.client.batches import padded
from serving.client.errors import RequestError, ResponseError
from serving.client.outputs import named_output
from serving.client.types import IntegerList, id_array

__all__ = [
    "MATCHING_MODEL",
    "RecommendRequest",
    "RecommendResult",
    "query_array",
    "recommend_inputs",
    "recommend_result",
]

MATCHING_MODEL = "matching"
"""Name under which the pipeline serves the model."""


@dataclasses.dataclass(frozen=True, eq=False)
class RecommendRequest:
    """One user to find candidates for.

    Attributes:
        behavior_item_ids: items of the history, oldest first; may be empty,
            which asks for the popular items.
        num_candidates: items wanted; None takes all that the model returns.

    Raises:
        RequestError: a field is not as described.
    """

    behavior_item_ids: IntegerList
    num_candidates: int | None = None

    def __post_init__(self) -> None:
        """Checks the values; see the class."""
        ids = id_array("behavior_item_ids", self.behavior_item_ids)
        object.__setattr__(self, "behavior_item_ids", ids)
        number = self.num_candidates
        if number is None:
            return
        whole = isinstance(number, (int, np.integer))
        if not whole or isinstance(number, bool) or number < 1:
            raise RequestError(
                "num_candidates", "be a whole number of at least 1", number
            )


@dataclasses.dataclass(frozen=True, eq=False)
class RecommendResult:
    """Items found for one user or query, best first.

    Attributes:
        candidate_item_ids: int64 (K,).
        scores: float32 (K,), falling. They compare items of one answer; they
            are no probabilities.
    """

    candidate_item_ids: np.ndarray
    scores: np.ndarray


def recommend_inputs(
    requests: Sequence[RecommendRequest],
) -> dict[str, np.ndarray]:
    """Pads requests to the inputs of the signature recommend.

    Args:
        requests: at least one.

    Returns:
        `behavior_item_ids` int64 (B, L), at least one wide, 0 at the end of
        shorter rows.
    """
    histories = [request.behavior_item_ids for request in requests]
    return {"behavior_item_ids": padded(histories)}


def query_array(query_vectors: np.ndarray) -> np.ndarray:
    """Checks the input of the signature search.

    Args:
        query_vectors: floats (B, D).

    Returns:
        float32 (B, D).

    Raises:
        RequestError: they are something else, or not all finite.
    """
    expected = "be finite numbers of shape (queries, dimensions), at least one"
    try:
        array = np.asarray(query_vectors, np.float32)
    except (TypeError, ValueError) as error:
        raise RequestError("query_vectors", expected, query_vectors) from error
    if array.ndim != 2 or not array.size or not np.isfinite(array).all():
        raise RequestError("query_vectors", expected, query_vectors)
    return array


def recommend_result(
    outputs: Mapping[str, np.ndarray], row: int, num_candidates: int | None
) -> RecommendResult:
    """The part of an answer that belongs to one request.

    Args:
        outputs: outputs of the signatures recommend or search.
        row: its row.
        num_candidates: items to keep, the best; None keeps all.

    Raises:
        ResponseError: an output is missing or does not fit.
    """
    ids = named_output(outputs, "candidate_item_ids")
    scores = named_output(outputs, "scores")
    if ids.shape != scores.shape or ids.ndim != 2 or row >= len(ids):
        raise ResponseError(
            f"candidates {ids.shape} and scores {scores.shape} do not fit row "
            f"{row}"
        )
    return RecommendResult(
        candidate_item_ids=ids[row, :num_candidates],
        scores=scores[row, :num_candidates],
    )
