"""Requests and answers of the ranking service."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np

from serving.client.calls import Call
from serving.client.declaration import Declaration
from serving.client.errors import CallError, RequestError
from serving.client.feature_values import (
    Value,
    Values,
    features_of_each,
    features_of_one,
)
from serving.client.types import (
    CLICK,
    Id,
    IdList,
    IntegerList,
    id_array,
    item_array,
    one_id,
    set_checked,
    whole_number,
)
from serving.wire import ranking_messages as wire

_LONGEST_ID = 256


@dataclasses.dataclass(frozen=True, eq=False)
class RankingRequest:
    """A user and the candidates to rank.

    Attributes:
        user_id: the user.
        candidate_item_ids: items to rank, without 0; None retrieves them with
            the retrieval model.
        num_candidates: number of items to retrieve; 0 is the service's
            default.
        deadline_ms: time limit for the answer; 0 is the service's default.
        request_id: returned in the result and written to the logs; generated
            if empty.
        sort: whether the answer has the best candidate first.
        top: number of best candidates to return, sorted; 0 returns all.
        user: features of the user by the model's names, which replace the
            features in the service's store for this request. If there are any,
            the user cache is not used.
        context: features of the request.
        candidates: features of the candidates, each as long as
            `candidate_item_ids`.

    Values of features are those of `RankRequest`.

    Raises:
        RequestError: a field has a wrong value.
    """

    user_id: Id
    candidate_item_ids: IdList | None = None
    num_candidates: int = 0
    deadline_ms: float = 0.0
    request_id: str = ""
    sort: bool = False
    top: int = 0
    user: Mapping[str, Value] = dataclasses.field(default_factory=dict)
    context: Mapping[str, Value] = dataclasses.field(default_factory=dict)
    candidates: Mapping[str, Values] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        count = 0
        if self.candidate_item_ids is not None:
            ids = item_array("candidate_item_ids", self.candidate_item_ids)
            set_checked(self, candidate_item_ids=ids)
            count = len(ids)
        length = ("candidate_item_ids", count)
        set_checked(
            self,
            user_id=one_id(self.user_id),
            user=features_of_one("user", self.user),
            context=features_of_one("context", self.context),
            candidates=features_of_each("candidates", self.candidates, length),
        )
        for field in ("num_candidates", "top"):
            if not 0 <= whole_number(getattr(self, field), field) < 2**31:
                raise RequestError(
                    field,
                    "be a whole number from 0 to 2**31 - 1",
                    getattr(self, field),
                )
        if not isinstance(self.sort, bool):
            raise RequestError("sort", "be true or false", self.sort)
        deadline = self.deadline_ms
        if (
            isinstance(deadline, bool)
            or not isinstance(deadline, (int, float))
            or not 0 <= deadline < float("inf")
        ):
            raise RequestError(
                "deadline_ms", "be milliseconds, not negative", deadline
            )
        name = self.request_id
        if not isinstance(name, str) or len(name) > _LONGEST_ID:
            raise RequestError(
                "request_id", f"be text of at most {_LONGEST_ID} letters", name
            )
        if any("\ud800" <= letter <= "\udfff" for letter in name):
            raise RequestError("request_id", "be valid Unicode", name)

    def with_numbers(self, declaration: Declaration) -> RankingRequest:
        """Returns the request with numbers as keys; see `Declaration`."""
        user = declaration.id("user_id", "user_id", self.user_id)
        field = "candidate_item_ids"
        ids = self.candidate_item_ids
        if ids is not None:
            ids = declaration.ids("item_id", field, ids)
        return dataclasses.replace(self, user_id=user, candidate_item_ids=ids)


@dataclasses.dataclass(frozen=True)
class Stage:
    """A step of answering a request.

    Attributes:
        name: `store_read`, `prefetch`, `matching`, `rank_cached`,
            `rank_full`, `rank_shortened`, `rank_no_history` …
        start_ms: start, since the arrival of the request.
        duration_ms: duration of the step, or of waiting for it.
        outcome: `ok`, `timeout`, `error`, `skipped`, `miss`, `cancelled`, or
            `running` if it continues after the answer.
    """

    name: str
    start_ms: float
    duration_ms: float
    outcome: str


@dataclasses.dataclass(frozen=True, eq=False)
class RankingResult:
    """The answer of the ranking service.

    Attributes:
        candidate_item_ids: (C,), as given, or int64 if retrieved; the best
            first if the request asks for it.
        click_probability: float32 (C,), in the same order, of the first label;
            empty if `path` is `unranked`.
        path: `cached`, `full`, `shortened`, `no_history` or `unranked`.
        history_length: number of behaviors that the scores are based on, or -1
            if it is unknown.
        generation: generation of the cached history, or 0 if none was used.
        cache_hit: whether the scores come from the cached history.
        stages: steps of the answer, by start time.
        total_ms: time from the arrival of the request to the answer.
        request_id: id of the request.
        candidates_from: `request`, `matching`, or `popular` if the retrieval
            model did not answer in time.
        probabilities: float32 (C,) by label; the first one is `click`.
    """

    candidate_item_ids: np.ndarray
    click_probability: np.ndarray
    path: str
    history_length: int = 0
    generation: int = 0
    cache_hit: bool = False
    stages: tuple[Stage, ...] = ()
    total_ms: float = 0.0
    request_id: str = ""
    candidates_from: str = "request"
    probabilities: Mapping[str, np.ndarray] = dataclasses.field(
        default_factory=dict
    )

    def __post_init__(self) -> None:
        clicks = {CLICK: self.click_probability}
        others = {**clicks, **self.probabilities}
        set_checked(self, probabilities=others | clicks)

    def at(self, places: np.ndarray) -> RankingResult:
        """Returns the answer with only the candidates at `places`."""
        if not len(self.click_probability):
            return dataclasses.replace(
                self, candidate_item_ids=self.candidate_item_ids[places]
            )
        return dataclasses.replace(
            self,
            candidate_item_ids=self.candidate_item_ids[places],
            click_probability=self.click_probability[places],
            probabilities={
                label: values[places]
                for label, values in self.probabilities.items()
            },
        )

    def order(self) -> np.ndarray:
        """Indices of the candidates, best first; unranked ones as given."""
        if not len(self.click_probability):
            return np.arange(len(self.candidate_item_ids))
        return np.argsort(-self.click_probability, kind="stable")


@dataclasses.dataclass(frozen=True)
class Rank(Call[RankingResult]):
    """Ranks candidates for a user."""

    request: RankingRequest

    def may_repeat(self, error: CallError) -> bool:
        """Returns False without scores: the service used the whole deadline."""
        return not error.message.startswith(wire.UNRANKED)


@dataclasses.dataclass(frozen=True, eq=False)
class AppendEvents(Call[int]):
    """Appends behaviors of a user, oldest first; the result is their number.

    Attributes:
        user_id: the user.
        item_ids: (N,), without 0; may be empty if `user` is not.
        behaviors: features of the behaviors, each as long as `item_ids`.
        user: all features of the user.
        times: int64 (N,), seconds since 1970; None is now.

    Raises:
        RequestError: a field has a wrong value.
    """

    user_id: Id
    item_ids: IdList
    behaviors: Mapping[str, Values] = dataclasses.field(default_factory=dict)
    user: Mapping[str, Value] = dataclasses.field(default_factory=dict)
    times: IntegerList | None = None

    def __post_init__(self) -> None:
        user = features_of_one("user", self.user)
        items = id_array("item_ids", self.item_ids)
        if len(items) or not user:
            items = item_array("item_ids", items)
        length = ("item_ids", len(items))
        set_checked(
            self,
            user_id=one_id(self.user_id),
            item_ids=items,
            behaviors=features_of_each("behaviors", self.behaviors, length),
            user=user,
        )
        if self.times is not None:
            times = id_array("times", self.times, length)
            if times.dtype == object:
                raise RequestError("times", "be seconds", times.tolist())
            set_checked(self, times=times)

    def with_numbers(self, declaration: Declaration) -> AppendEvents:
        """Returns the events with numbers as keys; see `Declaration`."""
        return dataclasses.replace(
            self,
            user_id=declaration.id("user_id", "user_id", self.user_id),
            item_ids=declaration.ids("item_id", "item_ids", self.item_ids),
        )

    def may_repeat(self, error: CallError) -> bool:
        """Returns True if nothing was sent: no event may be stored twice."""
        return error.message.startswith(wire.NOT_SENT)
