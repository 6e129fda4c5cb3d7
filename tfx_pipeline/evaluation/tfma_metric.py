"""GAUC as a TFMA metric."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow_model_analysis as tfma
from muse_keras import metrics
from tensorflow_model_analysis.metrics import metric_types, metric_util

from tfx_pipeline import features
from tfx_pipeline.evaluation import gauc

__all__ = ["GAUC"]

_Accumulator = list[tuple[np.ndarray, np.ndarray, np.ndarray]]


class GAUC(tfma.metrics.Metric):
    """GAUC over the whole set, with a bootstrap interval over users.

    Results: ``gauc``, ``gauc_lower``, ``gauc_upper`` (95 %), ``gauc_users``
    (users that count) and ``impressions``. A user may come in several
    requests; the metric is exact, and keeps 20 bytes per impression of a
    slice while it is computed.

    Args:
        bootstrap_samples: resamples of the users.
        name: name of the metric.
    """

    def __init__(self, bootstrap_samples: int = 1000, name: str = "gauc"):
        super().__init__(
            _computations, bootstrap_samples=bootstrap_samples, name=name
        )


metric_types.register_metric(GAUC)


def _computations(
    bootstrap_samples: int,
    name: str,
    eval_config: tfma.EvalConfig | None = None,
    model_names: Iterable[str] | None = None,
    output_names: Iterable[str] | None = None,
    example_weighted: bool = False,
) -> list[Any]:
    return [
        metric_types.MetricComputation(
            keys=[
                metric_types.MetricKey(
                    key,
                    model_name=model_name,
                    output_name=output_name,
                    example_weighted=example_weighted,
                )
                for key in _names(name)
            ],
            preprocessors=[
                metric_types.FeaturePreprocessor(
                    feature_keys=[features.USER_ID]
                )
            ],
            combiner=_Combiner(
                [
                    metric_types.MetricKey(
                        key,
                        model_name=model_name,
                        output_name=output_name,
                        example_weighted=example_weighted,
                    )
                    for key in _names(name)
                ],
                bootstrap_samples,
                eval_config,
                model_name,
                output_name,
            ),
        )
        for model_name in (model_names or [""])
        for output_name in (output_names or [""])
    ]


def _names(name: str) -> tuple[str, ...]:
    return (
        name,
        f"{name}_lower",
        f"{name}_upper",
        f"{name}_users",
        "impressions",
    )


class _Combiner(beam.CombineFn):
    def __init__(
        self,
        keys: list[Any],
        bootstrap_samples: int,
        eval_config: tfma.EvalConfig | None,
        model_name: str,
        output_name: str,
    ) -> None:
        self._keys = keys
        self._samples = bootstrap_samples
        self._eval_config = eval_config
        self._model_name = model_name
        self._output_name = output_name

    def create_accumulator(self) -> _Accumulator:
        return []

    def add_input(self, accumulator: _Accumulator, element: Any) -> _Accumulator:
        labels, scores, _ = next(
            metric_util.to_label_prediction_example_weight(
                element,
                eval_config=self._eval_config,
                model_name=self._model_name,
                output_name=self._output_name,
                flatten=False,
            )
        )
        user = np.asarray(element.features[features.USER_ID]).reshape(-1)[0]
        labels = np.asarray(labels, np.float32).reshape(-1)
        accumulator.append(
            (
                np.full(len(labels), user, np.int64),
                labels,
                np.asarray(scores, np.float64).reshape(-1),
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
        return [
            tuple(np.concatenate(column) for column in zip(*accumulator))
        ]

    def extract_output(self, accumulator: _Accumulator) -> dict[Any, float]:
        merged = self.compact(accumulator)
        if not merged:
            return dict.fromkeys(self._keys, float("nan"))
        user_ids, clicks, scores = merged[0]
        users = metrics.per_group_auc(clicks, scores, user_ids)
        low, high = gauc.bootstrap_interval(users, self._samples)
        values = (
            users.weighted_mean,
            low,
            high,
            float(len(users.auc)),
            float(len(clicks)),
        )
        return dict(zip(self._keys, values, strict=True))
