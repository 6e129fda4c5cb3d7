"""What a report says: plain typed values that become JSON as they are."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

__all__ = [
    "Candidate",
    "Interval",
    "ModelResult",
    "Report",
    "Retrieved",
    "SliceRow",
    "TierHistogram",
    "WorkedExample",
    "to_json_values",
]


@dataclasses.dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % bootstrap interval over users."""

    value: float
    low: float
    high: float

    @property
    def spans_zero(self) -> bool:
        """Whether the interval holds zero."""
        return self.low <= 0 <= self.high


@dataclasses.dataclass(frozen=True)
class ModelResult:
    """One trained model on the eval split.

    Attributes:
        name: ``muse`` or ``din``.
        gauc: with its interval.
        auc: over all impressions.
        log_loss: nats per impression.
        calibration: predicted over observed clicks.
        parameters: number of trained values.
        training_seconds: wall time of the trainer component, or None.
        evaluator_gauc: what the Evaluator stored, or None.
        loss_curve: smoothed points ``(step, loss)``.
        lineage: where the model comes from, ``(what, value)``.
    """

    name: str
    gauc: Interval
    auc: float
    log_loss: float
    calibration: float
    parameters: int | None
    training_seconds: float | None
    evaluator_gauc: float | None
    loss_curve: list[tuple[int, float]]
    lineage: list[tuple[str, str]]


@dataclasses.dataclass(frozen=True)
class SliceRow:
    """GAUC of the models in one bucket.

    Attributes:
        bucket: its name.
        users: users that count (the same for every model).
        impressions: impressions in the bucket.
        gauc: by model; None where no user counts.
        difference: paired MUSE − DIN, or None.
    """

    bucket: str
    users: int
    impressions: int
    gauc: dict[str, Interval | None]
    difference: Interval | None


@dataclasses.dataclass(frozen=True)
class TierHistogram:
    """Mean SimTier counts per candidate.

    Attributes:
        model: whose retrieval it is.
        edges: N + 1 edges of the similarity.
        clicked: mean count per tier, N values.
        not_clicked: the same for candidates without a click.
        clicked_candidates: number of candidates.
        not_clicked_candidates: number of candidates.
        requests: size of the sample.
    """

    model: str
    edges: list[float]
    clicked: list[float]
    not_clicked: list[float]
    clicked_candidates: int
    not_clicked_candidates: int
    requests: int


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A scored candidate of the worked example."""

    name: str
    score: float
    clicked: bool


@dataclasses.dataclass(frozen=True)
class Retrieved:
    """Retrieved behaviours with one item.

    Attributes:
        name: of the item.
        times: how many of the retrieved behaviours have it.
        similarity: cosine with the candidate.
        attention: sum over these behaviours.
        behaviours_ago: of the newest one; 1 is the last behaviour.
    """

    name: str
    times: int
    similarity: float
    attention: float
    behaviours_ago: int


@dataclasses.dataclass(frozen=True)
class WorkedExample:
    """One request: what the model looked at for its best candidate.

    Attributes:
        model: whose answer it is.
        user_id: the user.
        history_length: behaviours of the user.
        retrieved_count: behaviours retrieved for the best candidate.
        candidates: the best ones, best first.
        candidate_count: all candidates of the request.
        retrieved: items, most similar first.
        top_clicked_rate: share of sampled requests whose best candidate was
            clicked, to judge the choice of the example.
        has_names: whether names are known.
    """

    model: str
    user_id: int
    history_length: int
    retrieved_count: int
    candidates: list[Candidate]
    candidate_count: int
    retrieved: list[Retrieved]
    top_clicked_rate: float
    has_names: bool


@dataclasses.dataclass(frozen=True)
class Report:
    """Everything on the page.

    Attributes:
        title: name of the pipeline.
        created: UTC.
        users: users that count in GAUC.
        impressions: scored impressions.
        requests: scored requests.
        bootstrap_samples: resamples behind every interval.
        models: DIN before MUSE.
        difference: paired MUSE − DIN, or None with one model.
        notes: what a careful reader has to know.
        data: ``(what, train, eval)`` rows.
        counts: counted rows ``(counter, number)`` of the join.
        policy: how the data was made, ``(rule, text)``.
        by_history: GAUC by history length.
        by_popularity: GAUC by item popularity.
        tiers: SimTier histogram, or None.
        example: worked example, or None.
        lineage: ``(what, value)`` common to all models.
    """

    title: str
    created: str
    users: int
    impressions: int
    requests: int
    bootstrap_samples: int
    models: list[ModelResult]
    difference: Interval | None
    notes: list[str]
    data: list[tuple[str, str, str]]
    counts: list[tuple[str, int]]
    policy: list[tuple[str, str]]
    by_history: list[SliceRow]
    by_popularity: list[SliceRow]
    tiers: TierHistogram | None
    example: WorkedExample | None
    lineage: list[tuple[str, str]]


def to_json_values(value: Any) -> Any:
    """Returns a report as JSON values; numbers that are not finite are null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return to_json_values(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {key: to_json_values(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_json_values(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
