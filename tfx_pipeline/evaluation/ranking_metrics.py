"""GAUC and other ranking metrics as one TFMA metric.

TFMA's own AUC, log loss and calibration process one impression at a time. This
metric processes a request at a time and computes exact values from arrays, once
per slice.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis.metrics import metric_types

from muse_keras import metrics
from tfx_pipeline import features
from tfx_pipeline.evaluation import bootstrap

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
)
# Clips probabilities as Keras does, to avoid log(0).
_EPSILON = 1e-7

_Accumulator = list[tuple[np.ndarray, ...]]


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
        overconfident), ``click_rate`` and ``impressions``.
    """
    # float32 is not exact enough for sums over millions of impressions.
    clicks = np.asarray(clicks, np.float64)
    scores = np.asarray(scores, np.float64)
    users = metrics.per_group_auc(clicks, scores, user_ids)
    low, high = bootstrap.mean_interval(
        users.auc, users.weight, bootstrap_samples
    )
    everyone = metrics.per_group_auc(clicks, scores, np.zeros_like(user_ids))
    certain = np.clip(scores, _EPSILON, 1 - _EPSILON)
    losses = -np.where(clicks > 0, np.log(certain), np.log1p(-certain))
    observed = clicks.sum()
    values = (
        users.weighted_mean,
        low,
        high,
        len(users.auc),
        everyone.weighted_mean,
        losses.mean(),
        scores.sum() / observed if observed else float("nan"),
        clicks.mean(),
        len(clicks),
    )
    return {
        name: float(value) for name, value in zip(METRICS, values, strict=True)
    }


class RankingMetrics(tfma.metrics.Metric):
    """`ranking_metrics` over the whole set, for each slice, model and label.

    Labels are TFMA's outputs; the first one is "". Results are recorded with
    the declared name ``label``. The result is exact, also if a user has several
    requests. Computing it takes 20 bytes per impression and label of a slice.
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
                        metric_types.FeaturePreprocessor(
                            feature_keys=[features.USER_ID]
                        )
                    ],
                    combiner=combiner,
                )
            )
    return computations


class _Combiner(beam.CombineFn):
    """Collects users, clicks and scores; computes the metrics at the end."""

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

    def create_accumulator(self) -> _Accumulator:
        return []

    def add_input(
        self, accumulator: _Accumulator, element: Any
    ) -> _Accumulator:
        scores = element.predictions
        if self._model_name:
            scores = scores[self._model_name]
        user = np.asarray(element.features[features.USER_ID]).reshape(-1)[0]
        clicks = np.asarray(element.labels[self._output_name], np.float32)
        accumulator.append(
            (
                np.full(len(clicks), user, np.int64),
                clicks,
                np.asarray(scores[self._output_name], np.float64),
            )
        )
        return accumulator

    def merge_accumulators(
        self, accumulators: Iterable[_Accumulator]
    ) -> _Accumulator:
        return [part for parts in accumulators for part in parts]

    def compact(self, accumulator: _Accumulator) -> _Accumulator:
        if len(accumulator) < 2:
            return accumulator
        columns = zip(*accumulator, strict=True)
        return [tuple(np.concatenate(column) for column in columns)]

    def extract_output(
        self, accumulator: _Accumulator
    ) -> dict[metric_types.MetricKey, float]:
        merged = self.compact(accumulator)
        if not merged:
            return dict.fromkeys(self._keys, float("nan"))
        user_ids, clicks, scores = merged[0]
        results = ranking_metrics(
            user_ids, clicks, scores, self._bootstrap_samples
        )
        return {key: results[key.name] for key in self._keys}
