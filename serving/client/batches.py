"""Ragged requests to padded tensors, and answers back to the requests."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import (
    Callable,
    Collection,
    Iterator,
    Mapping,
    Sequence,
)
from typing import Any, Generic, TypeVar

import numpy as np

from serving.client.calls import Plan, Predict, Target
from serving.client.declared_inputs import DeclaredInputs, feature_names
from serving.client.errors import RequestError, ResponseError
from serving.client.types import (
    EmbedResult,
    ExplainResult,
    IntegerList,
    RankRequest,
    RankResult,
    some_ids,
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

    `sizes` are the ids in the history of a request, and its candidates;
    `inputs` makes the inputs of several from the declared names, if any.
    Requests for different signatures never share a call.
    """

    request: type[_Request]
    signature: Callable[[_Request], str]
    sizes: Callable[[_Request], tuple[int, int]]
    inputs: Callable[
        [Sequence[_Request], Collection[str]], dict[str, np.ndarray]
    ]
    result: Callable[[_Request, Outputs, int], _Result]

    def plan(
        self,
        target: Target,
        requests: _Request | Sequence[_Request],
        limits: Limits,
        declared: DeclaredInputs | None = None,
    ) -> Plan[_Result | list[_Result]]:
        """Asks for one result or a list of them, as the requests are.

        Requests without features need no `declared`.
        """
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
            if declared is None:
                inputs = self.inputs(some, ())
                outputs = yield Predict(target, signature, inputs)
            else:
                outputs = yield from declared.predict(
                    signature, functools.partial(self.inputs, some)
                )
            for row, index in enumerate(batch):
                results[index] = self.result(given[index], outputs, row)
        return results[0] if single else results

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


def padded(lists: Sequence[IntegerList], width: int = 1) -> np.ndarray:
    """Returns lists of ids as int64 (B, L), 0 at the end of shorter rows.

    L is the length of the longest list, and at least `width`.
    """
    width = max(width, *(len(values) for values in lists)) if lists else width
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


def rank_inputs(
    requests: Sequence[RankRequest], declared: Collection[str] = ()
) -> dict[str, np.ndarray]:
    """Pads requests to the inputs of the signatures rank and explain.

    Padding is 0 at the end of each row, so positions in a history stay what
    they were. An empty history is one padding id wide. A declared feature
    that a request leaves out is 0.
    """
    items = padded([r.behavior_item_ids for r in requests])
    return {
        **feature_inputs(requests, items.shape[1], declared),
        "behavior_item_ids": items,
        "candidate_item_ids": padded([r.candidate_item_ids for r in requests]),
    }


def feature_inputs(
    requests: Sequence[Any], width: int, declared: Collection[str]
) -> dict[str, np.ndarray]:
    """Returns ids and features of users, and features (B, width) of behaviors.

    Requests have `user_id`, `user` and `behaviors`.
    """
    inputs = {"user_id": np.array([r.user_id for r in requests], np.int64)}
    users = [request.user for request in requests]
    for name, key in feature_names("user", users, declared).items():
        values = [user.get(name, 0) for user in users]
        inputs[key] = np.array(values, np.int64)
    behaviors = [request.behaviors for request in requests]
    for name, key in feature_names("behaviors", behaviors, declared).items():
        lists = [lists.get(name, ()) for lists in behaviors]
        inputs[key] = padded(lists, width)
    return inputs


def _rank_sizes(request: RankRequest) -> tuple[int, int]:
    lists = 1 + len(request.behaviors)
    return (
        lists * len(request.behavior_item_ids),
        len(request.candidate_item_ids),
    )


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


def embed_plan(target: Target, item_ids: IntegerList) -> Plan[EmbedResult]:
    """Looks up the vectors of items."""
    inputs = {"item_ids": some_ids("item_ids", item_ids)}
    outputs = yield Predict(target, "embed", inputs)
    return EmbedResult(
        embedding=named_output(outputs, "embedding"),
        found=named_output(outputs, "found"),
    )
