"""Candidate retrieval: requests, results and signatures."""

from __future__ import annotations

import dataclasses

import numpy as np

from serving.client.batches import (
    Outputs,
    RowSignature,
    history_ids,
    named_output,
)
from serving.client.calls import Plan, Predict, Target
from serving.client.errors import RequestError, ResponseError
from serving.client.types import IdList, id_array, set_checked

MATCHING_MODEL = "matching"
"""Name under which the pipeline serves the retrieval model."""


@dataclasses.dataclass(frozen=True, eq=False)
class RecommendRequest:
    """A user to retrieve candidates for.

    Attributes:
        behavior_item_ids: items of the history, oldest first. If it is empty,
            popular items are returned.
        num_candidates: number of items; None returns all that the model finds.

    Raises:
        RequestError: a field has a wrong value.
    """

    behavior_item_ids: IdList
    num_candidates: int | None = None

    def __post_init__(self) -> None:
        ids = id_array("behavior_item_ids", self.behavior_item_ids)
        set_checked(self, behavior_item_ids=ids)
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
    """Items retrieved for one user or query, best first.

    Attributes:
        candidate_item_ids: int64 (K,).
        scores: float32 (K,), descending. They are only comparable within one
            answer and are not probabilities.
    """

    candidate_item_ids: np.ndarray
    scores: np.ndarray


def search_plan(
    target: Target, query_vectors: np.ndarray, num_candidates: int | None
) -> Plan[list[RecommendResult]]:
    """Finds the items most similar to vectors."""
    expected = "be finite numbers of shape (queries, dimensions), at least one"
    try:
        queries = np.asarray(query_vectors, np.float32)
    except (TypeError, ValueError) as error:
        raise RequestError("query_vectors", expected, query_vectors) from error
    if queries.ndim != 2 or not queries.size or not np.isfinite(queries).all():
        raise RequestError("query_vectors", expected, query_vectors)
    outputs = yield Predict(target, "search", {"query_vector": queries})
    return [
        recommend_result(outputs, row, num_candidates)
        for row in range(len(queries))
    ]


def recommend_result(
    outputs: Outputs, row: int, num_candidates: int | None
) -> RecommendResult:
    """Reads a row of recommend or search; None keeps all candidates."""
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


RECOMMEND = RowSignature(
    RecommendRequest,
    lambda _: "recommend",
    lambda request: (len(request.behavior_item_ids), 0),
    lambda requests, declared: {
        "behavior_item_ids": history_ids(requests, declared)
    },
    lambda request, outputs, row: recommend_result(
        outputs, row, request.num_candidates
    ),
    has_features=False,
)
