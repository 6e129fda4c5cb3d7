"""GAUC and other ranking metrics as one TFMA metric.

TFMA's own AUC, log loss and calibration process one impression at a time. This
metric merges a `Summary` of each group of users, once per slice.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis import constants
from tensorflow_model_analysis.metrics import metric_types

from muse_keras import metrics
from tfx_pipeline.evaluation import bootstrap
from tfx_pipeline.transforms import arrow_batches

METRICS = (
    "gauc",
    "gauc_lower",
    "gauc_upper",
    "gauc_users",
    "auc",
    "log_loss",
    "calibration",
    "click_rate",
    "impressions",
    *(
        f"{name}{end}"
        for name in ("ndcg_10", "mrr", "recall_10", "normalized_entropy")
        for end in ("", "_lower", "_upper")
    ),
    "calibration_error",
)
TOP = 10
"""Length of the list for NDCG and recall."""
MAX_USERS = 1 << 17
"""Users of a slice that are resampled for intervals, 48 bytes each."""
# Bins of the calibration error are unions of buckets of scores.
_BINS = 20
# Clips probabilities as Keras does, to avoid log(0).
_EPSILON = 1e-7
# A bucket of scores has one exponent and three bits of a float64's mantissa,
# so it has at most 2 ** 20 values of a float32.
_BUCKET_SHIFT = np.uint64(49)
_MERGED = 64

Sum = tuple[float, ...]
Ranks = tuple[int, int, int, int, float]
"""A bucket of scores, its non-clicks and clicks, twice the pairs of them in
which the click has the higher score (ties count one half), and the sum of the
scores."""
Counts = tuple[np.ndarray, np.ndarray, np.ndarray]
"""Distinct scores, ascending, with the non-clicks and clicks of each."""


def ranking_metrics(
    user_ids: np.ndarray,
    clicks: np.ndarray,
    scores: np.ndarray,
    bootstrap_samples: int,
) -> dict[str, float]:
    """Computes every metric of `METRICS`.

    Args:
        user_ids: int64 (n,).
        clicks: values of the label, 0 or 1, (n,).
        scores: probabilities of the label, (n,).
        bootstrap_samples: number of resamples of the users.

    Returns:
        ``gauc`` with its 95 % interval over users and the number of users with
        an AUC, ``auc`` over all impressions, ``log_loss`` (nats),
        ``calibration`` (predicted over observed clicks; above 1 is
        overconfident), ``click_rate`` and ``impressions``. ``ndcg_10``, ``mrr``
        and ``recall_10`` are means over the users with an AUC (see
        `muse_keras.metrics.per_group_ranking`), with intervals;
        ``normalized_entropy`` is the log loss over that of the click rate,
        with an interval by the delta method over users; ``calibration_error``
        is the mean absolute difference of predicted and observed clicks per
        impression, in at most 20 bins of scores. A bin has at least a 20th of
        the impressions and is at least an eighth of an octave wide, so that
        errors within narrower ranges may cancel out. It has no interval, since
        resampling adds to it.
    """
    buckets = score_buckets(clicks, scores)
    return Summary.merge(
        [
            Summary.of(user_ids, clicks, scores),
            Summary(ranks=tuple(ranks_of(*bucket) for bucket in buckets)),
        ]
    ).metrics(bootstrap_samples)


@dataclasses.dataclass(frozen=True, eq=False)
class Summary:
    """What the metrics need of some users' impressions; `merge` adds them up.

    A user's impressions are all in one summary. The result does not depend on
    how users are divided: sums are exact until they are rounded at the end.

    Attributes:
        sample: ids int64 (U,), AUC, impressions, NDCG, reciprocal rank and
            recall, each float64 (U,), of the users with an AUC; of the
            `MAX_USERS` with the smallest hashes.
        users: number of all users with an AUC.
        auc: sum of AUC times impressions over these users.
        weight: number of their impressions.
        lists: sums of their NDCG, reciprocal rank and recall.
        products: sums over all users of l l, l c, l n, c c, c n and n n, where
            l is the sum of a user's log loss, c of clicks, n of impressions.
        loss: sum of the log loss.
        predicted: sum of the scores.
        clicks: number of clicks.
        impressions: number of impressions.
        ranks: buckets of scores, from `ranks_of`.
    """

    sample: tuple[np.ndarray, ...] = (
        np.zeros(0, np.int64),
        *[np.zeros(0)] * 5,
    )
    users: int = 0
    auc: Sum = ()
    weight: int = 0
    lists: tuple[Sum, ...] = ((),) * 3
    products: tuple[Sum, ...] = ((),) * 6
    loss: Sum = ()
    predicted: Sum = ()
    clicks: int = 0
    impressions: int = 0
    ranks: tuple[Ranks, ...] = ()

    @classmethod
    def of(
        cls, user_ids: np.ndarray, clicks: np.ndarray, scores: np.ndarray
    ) -> Summary:
        """Summarizes impressions, except for ``ranks``."""
        # float32 is not exact enough for sums over millions of impressions.
        scores = np.asarray(scores, np.float64)
        users = metrics.per_group_auc(clicks, scores, user_ids)
        lists = metrics.per_group_ranking(clicks, scores, user_ids, TOP)[1:]
        certain = np.clip(scores, _EPSILON, 1 - _EPSILON)
        losses = -np.where(
            np.asarray(clicks) > 0, np.log(certain), np.log1p(-certain)
        )
        return cls(
            sample=_sampled(users.group_ids, users.auc, users.weight, *lists),
            users=len(users.auc),
            auc=_exact((users.auc * users.weight).tolist()),
            weight=int(users.weight.sum()),
            lists=tuple(_exact(values.tolist()) for values in lists),
            products=_products(user_ids, losses, clicks),
            loss=_exact(losses.tolist()),
            predicted=_exact(scores.tolist()),
            clicks=int(np.sum(clicks, dtype=np.float64)),
            impressions=len(scores),
        )

    @classmethod
    def merge(cls, parts: Sequence[Summary]) -> Summary:
        """Returns the summary of all users of ``parts``."""
        samples = zip(*(part.sample for part in parts), strict=True)
        return cls(
            sample=_sampled(*map(np.concatenate, samples)),
            users=sum(part.users for part in parts),
            auc=_exact([x for part in parts for x in part.auc]),
            weight=sum(part.weight for part in parts),
            lists=_added([part.lists for part in parts]),
            products=_added([part.products for part in parts]),
            loss=_exact([x for part in parts for x in part.loss]),
            predicted=_exact([x for part in parts for x in part.predicted]),
            clicks=sum(part.clicks for part in parts),
            impressions=sum(part.impressions for part in parts),
            ranks=tuple(one for part in parts for one in part.ranks),
        )

    def metrics(self, bootstrap_samples: int) -> dict[str, float]:
        """Returns every metric of `METRICS`."""
        gauc = _quotient(math.fsum(self.auc), self.weight)
        means = [gauc] + [
            _quotient(math.fsum(values), self.users) for values in self.lists
        ]
        (_, *of_auc), *of_lists = (
            (mean, *interval)
            for mean, interval in zip(
                means, self._intervals(means, bootstrap_samples), strict=True
            )
        )
        predicted = math.fsum(self.predicted)
        values = (
            gauc,
            *of_auc,
            self.users,
            self._auc(),
            _quotient(math.fsum(self.loss), self.impressions),
            _quotient(predicted, self.clicks),
            _quotient(self.clicks, self.impressions),
            self.impressions,
            *(number for interval in of_lists for number in interval),
            *self._normalized_entropy(),
            self._calibration_error(),
        )
        return {
            name: float(value)
            for name, value in zip(METRICS, values, strict=True)
        }

    def _intervals(
        self, means: Sequence[float], samples: int
    ) -> Iterator[tuple[float, float]]:
        """Yields intervals of GAUC and of the means of `lists`."""
        ids, auc, weight, *lists = self.sample
        order = np.argsort(ids)
        values = np.stack([auc, *lists], axis=1)[order]
        weights = np.ones_like(values)
        weights[:, 0] = weight[order]
        resampled = bootstrap.resampled_means(values, weights, samples)
        for column, mean in enumerate(means):
            low, high = bootstrap.interval(resampled[:, column])
            if len(ids) < self.users:
                # The interval of a mean over n users is sqrt(m / n) as wide as
                # that over m of them.
                of_sample = np.average(
                    values[:, column], weights=weights[:, column]
                )
                narrower = math.sqrt(len(ids) / self.users)
                low = mean + (low - of_sample) * narrower
                high = mean + (high - of_sample) * narrower
            yield low, high

    def _normalized_entropy(self) -> tuple[float, float, float]:
        """Returns the log loss over the entropy of clicks, and its interval."""
        n = self.impressions
        rate = _quotient(self.clicks, n)
        if not 0 < rate < 1:
            return (math.nan,) * 3
        entropy = -rate * math.log(rate) - (1 - rate) * math.log1p(-rate)
        loss = math.fsum(self.loss) / n
        value = loss / entropy
        # A user adds (l - loss n) / entropy - slope (c - rate n), over all
        # impressions; the variance is the sum of its squares.
        slope = value / entropy * (math.log1p(-rate) - math.log(rate))
        a, b = 1 / entropy, -slope
        c = -(a * loss + b * rate)
        ll, lc, ln, cc, cn, nn = map(math.fsum, self.products)
        variance = math.fsum(
            [a * a * ll, b * b * cc, c * c * nn]
            + [2 * a * b * lc, 2 * a * c * ln, 2 * b * c * cn]
        )
        half = 1.959964 * math.sqrt(max(0.0, variance)) / n
        return value, value - half, value + half

    def _calibration_error(self) -> float:
        """Returns the mean absolute error of the click rate, by bins."""
        error = predicted = 0.0
        clicks = count = 0
        for _, negative, positive, _, scores in sorted(self.ranks):
            clicks, count = clicks + positive, count + negative + positive
            predicted += scores
            if count * _BINS >= self.impressions:
                error += abs(predicted - clicks)
                clicks = count = 0
                predicted = 0.0
        return _quotient(error + abs(predicted - clicks), self.impressions)

    def _auc(self) -> float:
        """Returns the AUC over all impressions."""
        below = clicks = doubled = 0
        for _, negative, positive, wins, _ in sorted(self.ranks):
            doubled += wins + 2 * positive * below
            below += negative
            clicks += positive
        return _quotient(doubled, 2 * clicks * below)


def score_buckets(clicks: np.ndarray, scores: np.ndarray) -> Iterator[Counts]:
    """Counts the impressions (n,) of each score, by bucket of scores.

    Scores are at least 0. `bucket_of` names the bucket; scores of another
    bucket are all higher or all lower.
    """
    distinct, place = np.unique(
        np.asarray(scores, np.float64), return_inverse=True
    )
    size = len(distinct)
    if not size:
        return
    positive = np.bincount(place, np.asarray(clicks) > 0, size).astype(np.int64)
    negative = np.bincount(place, minlength=size) - positive
    _, starts = np.unique(_bits(distinct), return_index=True)
    for rows in np.split(np.arange(size), starts[1:]):
        yield distinct[rows], negative[rows], positive[rows]


def bucket_of(counts: Counts) -> int:
    """Returns the number of a bucket; higher ones have higher scores."""
    return int(_bits(counts[0][:1])[0])


def merge_counts(parts: Sequence[Counts]) -> Counts:
    """Adds up the counts of one bucket."""
    scores, negative, positive = map(np.concatenate, zip(*parts, strict=True))
    distinct, place = np.unique(scores, return_inverse=True)
    found = np.zeros((2, len(distinct)), np.int64)
    np.add.at(found[0], place, negative)
    np.add.at(found[1], place, positive)
    return distinct, found[0], found[1]


def ranks_of(
    scores: np.ndarray, negative: np.ndarray, positive: np.ndarray
) -> Ranks:
    """Returns what the AUC needs of a bucket."""
    below = np.cumsum(negative) - negative
    return (
        bucket_of((scores, negative, positive)),
        int(negative.sum()),
        int(positive.sum()),
        int((positive * (2 * below + negative)).sum()),
        math.fsum((scores * (negative + positive)).tolist()),
    )


def _bits(scores: np.ndarray) -> np.ndarray:
    # Adding 0 makes a positive zero of a negative one.
    return (scores + 0.0).view(np.uint64) >> _BUCKET_SHIFT


def _sampled(ids: np.ndarray, *columns: np.ndarray) -> tuple[np.ndarray, ...]:
    if len(ids) <= MAX_USERS:
        return (ids, *columns)
    hashes = arrow_batches.mix(ids)
    kept = np.argpartition(hashes, MAX_USERS)[:MAX_USERS]
    return tuple(column[kept] for column in (ids, *columns))


def _exact(values: list[float]) -> Sum:
    """Returns a few numbers whose exact sum is that of ``values``."""
    parts: list[float] = []
    while rest := math.fsum([*values, *(-part for part in parts)]):
        parts.append(rest)
        if not math.isfinite(rest):
            break
    return tuple(parts)


def _added(parts: Sequence[Sequence[Sum]]) -> tuple[Sum, ...]:
    """Adds up several sums of each part."""
    return tuple(
        _exact([value for one in of for value in one])
        for of in zip(*parts, strict=True)
    )


def _products(
    user_ids: np.ndarray, losses: np.ndarray, clicks: np.ndarray
) -> tuple[Sum, ...]:
    """Returns `Summary.products`."""
    if not len(user_ids):
        return ((),) * 6
    order = np.argsort(user_ids, kind="stable")
    users = np.asarray(user_ids)[order]
    starts = np.flatnonzero(np.concatenate([[True], users[1:] != users[:-1]]))
    loss, click, count = (
        np.add.reduceat(np.asarray(values, np.float64)[order], starts)
        for values in (losses, clicks, np.ones(len(users)))
    )
    pairs = (
        *((loss, other) for other in (loss, click, count)),
        *((click, other) for other in (click, count)),
        (count, count),
    )
    return tuple(_exact((one * other).tolist()) for one, other in pairs)


def _quotient(dividend: float, divisor: float) -> float:
    return dividend / divisor if divisor else math.nan


class RankingMetrics(tfma.metrics.Metric):
    """`ranking_metrics` over the whole set, for each slice, model and label.

    Predictions are `Summary`s instead of scores; `extractors` makes them, so
    that no process has all impressions of a slice. Labels are TFMA's outputs;
    the first one is "". Results are recorded with the declared name ``label``.
    The result is exact, also if a user has several requests.
    """

    def __init__(
        self,
        bootstrap_samples: int = 1000,
        name: str = "gauc",
        label: str = "",
    ) -> None:
        super().__init__(
            _computations,
            bootstrap_samples=bootstrap_samples,
            name=name,
            label=label,
        )


metric_types.register_metric(RankingMetrics)


def _computations(
    bootstrap_samples: int,
    name: str,
    label: str,
    eval_config: tfma.EvalConfig | None = None,
    model_names: Iterable[str] | None = None,
    output_names: Iterable[str] | None = None,
    example_weighted: bool = False,
) -> list[metric_types.MetricComputation]:
    computations = []
    for model_name in model_names or [""]:
        for output_name in output_names or [""]:
            keys = [
                metric_types.MetricKey(
                    key,
                    model_name=model_name,
                    output_name=output_name,
                    example_weighted=example_weighted,
                )
                for key in METRICS
            ]
            combiner = _Combiner(
                keys, bootstrap_samples, model_name, output_name
            )
            computations.append(
                metric_types.MetricComputation(
                    keys=keys,
                    preprocessors=[
                        metric_types.StandardMetricInputsPreprocessor(
                            [constants.PREDICTIONS_KEY],
                            include_default_inputs=False,
                        )
                    ],
                    combiner=combiner,
                )
            )
    return computations


def merging() -> beam.CombineFn:
    """Returns a function that merges the summaries of a key."""
    return _MergeSummaries()


class _MergeSummaries(beam.CombineFn):
    """Merges summaries; an accumulator has at most two full samples."""

    def create_accumulator(self) -> list[Summary]:
        return []

    def add_input(
        self, accumulator: list[Summary], element: Any
    ) -> list[Summary]:
        accumulator.append(element)
        sampled = sum(len(part.sample[0]) for part in accumulator)
        if len(accumulator) < _MERGED and sampled < 2 * MAX_USERS:
            return accumulator
        return self.compact(accumulator)

    def merge_accumulators(
        self, accumulators: Iterable[list[Summary]]
    ) -> list[Summary]:
        merged: list[Summary] = []
        for accumulator in accumulators:
            for summary in accumulator:
                merged = _MergeSummaries.add_input(self, merged, summary)
        return merged

    def compact(self, accumulator: list[Summary]) -> list[Summary]:
        return [Summary.merge(accumulator)] if accumulator else []

    def extract_output(self, accumulator: list[Summary]) -> Any:
        return Summary.merge(accumulator)


class _Combiner(_MergeSummaries):
    """Merges the summaries in extracts; computes the metrics at the end."""

    def __init__(
        self,
        keys: list[metric_types.MetricKey],
        bootstrap_samples: int,
        model_name: str,
        output_name: str,
    ) -> None:
        self._keys = keys
        self._bootstrap_samples = bootstrap_samples
        self._model_name = model_name
        self._output_name = output_name

    def add_input(
        self, accumulator: list[Summary], element: Any
    ) -> list[Summary]:
        summaries = element.predictions
        if self._model_name:
            summaries = summaries[self._model_name]
        return super().add_input(accumulator, summaries[self._output_name])

    def extract_output(
        self, accumulator: list[Summary]
    ) -> dict[metric_types.MetricKey, float]:
        if not accumulator:
            return dict.fromkeys(self._keys, float("nan"))
        merged = Summary.merge(accumulator)
        results = merged.metrics(self._bootstrap_samples)
        return {key: results[key.name] for key in self._keys}
