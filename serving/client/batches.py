"""Ragged requests to padded tensors, and answers back to the requests."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from serving.client.calls import Plan, Predict, Target
from serving.client.errors import RequestError, ResponseError
from serving.client.types import (
    ExplainResult,
    IntegerList,
    RankRequest,
    RankResult,
)

_Request = TypeVar("_Request")
_Result = TypeVar("_Result")
Outputs = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much goes into one call.

    Attributes:
        requests: rows.
        ids: padded ids, history and candidates together.
        items: items to add or replace.
    """

    requests: int = 64
    ids: int = 2_000_000
    items: int = 1024

    def __post_init__(self) -> None:
        if min(self.requests, self.ids, self.items) < 1:
            raise ValueError(
                "`requests`, `ids` and `items` must be at least 1. "
                f"Received: {self}"
            )


@dataclasses.dataclass(frozen=True)
class RowSignature(Generic[_Request, _Result]):
    """A signature with one row per request; several requests share a call.

    `sizes` are the ids in the history of a request, and its candidates.
    Requests for different signatures never share a call.
    """

    request: type[_Request]
    signature: Callable[[_Request], str]
    sizes: Callable[[_Request], tuple[int, int]]
    inputs: Callable[[Sequence[_Request]], dict[str, np.ndarray]]
    result: Callable[[_Request, Outputs, int], _Result]

    def plan(
        self,
        target: Target,
        requests: _Request | Sequence[_Request],
        limits: Limits,
    ) -> Plan[_Result | list[_Result]]:
        """Returns the calls; the result is one or a list, as the requests."""
        asked: Any = requests
        single = isinstance(asked, self.request)
        given: list[Any] = [asked] if single else list(asked)
        for index, request in enumerate(given):
            if not isinstance(request, self.request):
                raise RequestError(
                    f"requests[{index}]",
                    f"be a {self.request.__name__}",
                    request,
                )
        batches = list(self.batches(given, limits))
        calls = (
            Predict(
                target,
                self.signature(given[batch[0]]),
                self.inputs([given[index] for index in batch]),
            )
            for batch in batches
        )

        def read(answers: list[Outputs]) -> _Result | list[_Result]:
            results: list[Any] = [None] * len(given)
            for batch, outputs in zip(batches, answers, strict=True):
                for row, index in enumerate(batch):
                    results[index] = self.result(given[index], outputs, row)
            return results[0] if single else results

        return Plan(calls, read)

    def batches(
        self, requests: Sequence[_Request], limits: Limits
    ) -> Iterator[list[int]]:
        """Yields the positions of the requests that share a call.

        Requests with histories of similar length go together, so that little is
        padded. A request that is too big on its own still gets a call.
        """
        names = [self.signature(request) for request in requests]
        sizes = [self.sizes(request) for request in requests]
        for name in dict.fromkeys(names):
            batch: list[int] = []
            widest = most = 0
            for index in sorted(
                (i for i, other in enumerate(names) if other == name),
                key=lambda i: sizes[i][0],
            ):
                history, candidates = sizes[index]
                wide, tall = max(widest, history), max(most, candidates)
                ids = (len(batch) + 1) * (wide + tall)
                if batch and (
                    len(batch) >= limits.requests or ids > limits.ids
                ):
                    yield batch
                    batch = []
                    wide, tall = history, candidates
                batch.append(index)
                widest, most = wide, tall
            if batch:
                yield batch


def padded(lists: Sequence[IntegerList]) -> np.ndarray:
    """Returns lists of ids as int64 (B, L), 0 at the end of shorter rows."""
    width = max(1, *(len(values) for values in lists)) if lists else 1
    if len(lists) == 1 and len(lists[0]) == width:
        return np.asarray(lists[0])[np.newaxis]
    out = np.zeros((len(lists), width), np.int64)
    for row, values in zip(out, lists, strict=True):
        row[: len(values)] = values
    return out


def named_output(outputs: Outputs, name: str) -> np.ndarray:
    """Returns an output, or raises `ResponseError`."""
    if name not in outputs:
        raise ResponseError(
            f"the answer has no output {name!r}, only {sorted(outputs)}"
        )
    return outputs[name]


def column(outputs: Outputs, name: str, rows: int) -> np.ndarray:
    """Returns the first `rows` values of an output of shape (B,)."""
    values = named_output(outputs, name)
    if values.ndim != 1 or len(values) < rows:
        raise ResponseError(
            f"output {name!r} has shape {values.shape}, too small for "
            f"{rows} rows"
        )
    return values[:rows]


def candidate_part(
    outputs: Outputs,
    name: str,
    row: int,
    count: int,
    rank: int = 2,
) -> np.ndarray:
    """Returns a row of an output (B, C, …), without the padding candidates."""
    array = named_output(outputs, name)
    if array.ndim != rank or row >= len(array) or count > array.shape[1]:
        raise ResponseError(
            f"output {name!r} has shape {array.shape}, too small for "
            f"row {row} and {count} candidates"
        )
    return array[row, :count]


def rank_inputs(requests: Sequence[RankRequest]) -> dict[str, np.ndarray]:
    """Pads requests to the inputs of the signatures rank and explain.

    Padding is 0 at the end of each row, so positions in a history stay what
    they were. An empty history is one padding id wide.
    """
    return {
        "user_id": np.array([r.user_id for r in requests], np.int64),
        "user_profile": np.stack([r.user_profile for r in requests]),
        "behavior_item_ids": padded([r.behavior_item_ids for r in requests]),
        "behavior_category_ids": padded(
            [r.behavior_category_ids for r in requests]
        ),
        "candidate_item_ids": padded([r.candidate_item_ids for r in requests]),
    }


def _rank_sizes(request: RankRequest) -> tuple[int, int]:
    return 2 * len(request.behavior_item_ids), len(request.candidate_item_ids)


def scored(
    candidate_ids: IntegerList, outputs: Outputs, row: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the candidates of a row and their probabilities."""
    ids = np.asarray(candidate_ids)
    return ids, candidate_part(outputs, "click_probability", row, len(ids))


def _rank_result(
    request: RankRequest, outputs: Outputs, row: int
) -> RankResult:
    return RankResult(*scored(request.candidate_item_ids, outputs, row))


def _explain_result(
    request: RankRequest, outputs: Outputs, row: int
) -> ExplainResult:
    def part(name: str) -> np.ndarray:
        count = len(request.candidate_item_ids)
        return candidate_part(outputs, name, row, count, 3)

    indices = part("behavior_indices")
    return ExplainResult(
        *scored(request.candidate_item_ids, outputs, row),
        behavior_indices=indices,
        similarities=part("similarities"),
        attention=part("attention"),
        retrieved=(indices >= 0) & (indices < len(request.behavior_item_ids)),
        tiers=part("tiers"),
    )


RANK = RowSignature(
    RankRequest, lambda _: "rank", _rank_sizes, rank_inputs, _rank_result
)
EXPLAIN = RowSignature(
    RankRequest, lambda _: "explain", _rank_sizes, rank_inputs, _explain_result
)
