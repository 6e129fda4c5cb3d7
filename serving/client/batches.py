"""Converts ragged requests to padded tensors, and outputs to results."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Generic, TypeVar

import numpy as np

from serving.client.calls import Plan, Predict, Target
from serving.client.declaration import Declaration
from serving.client.declared_inputs import DeclaredInputs, SignatureInputs
from serving.client.errors import RequestError, ResponseError
from serving.client.feature_values import number_of_values
from serving.client.types import (
    CLICK,
    EmbedResult,
    ExplainResult,
    IdList,
    RankRequest,
    RankResult,
    some_ids,
)

_Request = TypeVar("_Request")
_Result = TypeVar("_Result")
Outputs = Mapping[str, np.ndarray]
PROBABILITY = "_probability"
"""Suffix of the names of probability outputs, after the label."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """Upper limits of one call.

    Attributes:
        requests: number of rows.
        ids: padded ids of histories and candidates, and their features.
        items: number of items to add or replace.
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

    `sizes` returns the lengths of a request's history and candidates. `inputs`
    makes the inputs of several requests as the signature declares them; the
    declaration is only fetched for requests with features (`has_features`).
    Requests for different signatures never share a call.
    """

    request: type[_Request]
    signature: Callable[[_Request], str]
    sizes: Callable[[_Request], tuple[int, int]]
    inputs: Callable[
        [Sequence[_Request], SignatureInputs], dict[str, np.ndarray]
    ]
    result: Callable[[_Request, Outputs, int], _Result]
    has_features: bool = True

    def plan(
        self,
        target: Target,
        requests: _Request | Sequence[_Request],
        limits: Limits,
        declared: DeclaredInputs,
    ) -> Plan[_Result | list[_Result]]:
        """Requests one result, or a list of them if given a list."""
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
        results: list[Any] = [None] * len(given)
        for batch in self.batches(given, limits):
            some = [given[index] for index in batch]
            signature = self.signature(some[0])
            if self.has_features:
                outputs = yield from declared.predict(
                    signature, functools.partial(self.inputs, some)
                )
            else:
                inputs = self.inputs(some, declared.unknown)
                outputs = yield Predict(target, signature, inputs)
            for row, index in enumerate(batch):
                results[index] = self.result(given[index], outputs, row)
        return results[0] if single else results

    def batches(
        self, requests: Sequence[_Request], limits: Limits
    ) -> Iterator[list[int]]:
        """Yields the indices of the requests that share a call.

        Requests with histories of similar length share a call, to keep padding
        small. A request that exceeds the limits on its own gets its own call.
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


def padded(lists: Sequence[np.ndarray]) -> np.ndarray:
    """Returns lists of ids as int64 (B, L), padded with 0 at the end.

    L is the length of the longest list, and at least 1.
    """
    width = max([1, *map(len, lists)])
    if len(lists) == 1 and len(lists[0]) == width:
        return lists[0][np.newaxis]
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


def rank_inputs(
    requests: Sequence[RankRequest],
    declared: SignatureInputs | None = None,
) -> dict[str, np.ndarray]:
    """Pads requests to the inputs of the signatures `rank` and `explain`.

    Rows are padded with 0 at the end, so positions in a history do not change.
    An empty history becomes one padding id. Declared features that a request
    does not give are missing.
    """
    declared = declared or SignatureInputs()
    items = history_ids(requests, declared)
    return {
        **behavior_inputs(requests, items.shape[1], declared),
        "behavior_item_ids": items,
        **candidate_inputs(requests, declared),
    }


def history_ids(
    requests: Sequence[Any], declared: SignatureInputs
) -> np.ndarray:
    """Returns the `behavior_item_ids` of requests, padded."""
    field = "behavior_item_ids"
    return padded(
        [declared.ids("item_id", field, getattr(r, field)) for r in requests]
    )


def behavior_inputs(
    requests: Sequence[Any], length: int, declared: SignatureInputs
) -> dict[str, np.ndarray]:
    """Returns ids and features of users, and features of their behaviors."""
    return {
        "user_id": declared.user_ids(requests),
        **declared.features("user", requests),
        **declared.features("behaviors", requests, length),
    }


def candidate_inputs(
    requests: Sequence[Any], declared: SignatureInputs
) -> dict[str, np.ndarray]:
    """Returns ids and features of candidates, and features of requests."""
    field = "candidate_item_ids"
    ids = [declared.ids("item_id", field, getattr(r, field)) for r in requests]
    items = padded(ids)
    return {
        field: items,
        **declared.features("context", requests),
        **declared.features("candidates", requests, items.shape[1]),
    }


def _rank_sizes(request: RankRequest) -> tuple[int, int]:
    history = len(request.behavior_item_ids)
    return (
        history + sum(map(number_of_values, request.behaviors.values())),
        candidate_size(request),
    )


def candidate_size(request: Any) -> int:
    """Returns the number of values of a request's candidates."""
    features = request.candidates.values()
    count = len(request.candidate_item_ids)
    return count + sum(map(number_of_values, features))


def scored(request: Any, outputs: Outputs, row: int) -> dict[str, Any]:
    """Returns the fields of a row's result: candidates and probabilities."""
    ids = request.candidate_item_ids
    return {
        "candidate_item_ids": ids,
        "click_probability": candidate_part(
            outputs, CLICK + PROBABILITY, row, len(ids)
        ),
        "probabilities": {
            name.removesuffix(PROBABILITY): candidate_part(
                outputs, name, row, len(ids)
            )
            for name in sorted(outputs)
            if name.endswith(PROBABILITY)
        },
    }


def _rank_result(
    request: RankRequest, outputs: Outputs, row: int
) -> RankResult:
    return RankResult(**scored(request, outputs, row))


def _explain_result(
    request: RankRequest, outputs: Outputs, row: int
) -> ExplainResult:
    def part(name: str) -> np.ndarray:
        count = len(request.candidate_item_ids)
        return candidate_part(outputs, name, row, count, 3)

    indices = part("behavior_indices")
    return ExplainResult(
        **scored(request, outputs, row),
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


def embed_plan(
    target: Target, item_ids: IdList, declaration: Declaration
) -> Plan[EmbedResult]:
    """Looks up the vectors of items."""
    ids = declaration.ids("item_id", "item_ids", some_ids("item_ids", item_ids))
    outputs = yield Predict(target, "embed", {"item_ids": ids})
    return EmbedResult(
        embedding=named_output(outputs, "embedding"),
        found=named_output(outputs, "found"),
    )
