"""Evaluator that says in ML Metadata what it found.

TFX's own component keeps its numbers in a file of TFMA, and says of a model
that it refuses only that it does.
"""

from __future__ import annotations

import math
from typing import Any

import tensorflow_model_analysis as tfma

from serving.files import dumps
from tfx_pipeline.components.artifacts import RESULT
from tfx_pipeline.tfx_internals import (
    artifact_utils,
    evaluator_component,
    evaluator_executor,
    executor_spec,
    proto_utils,
)

_VALUES = ("gauc", "gauc_lower", "gauc_upper")


class Executor(evaluator_executor.Executor):
    """Evaluates, and writes the verdict on the evaluation's artifact."""

    def Do(
        self,
        input_dict: dict[str, list],
        output_dict: dict[str, list],
        exec_properties: dict[str, Any],
    ) -> None:
        """Evaluates a model as TFX does.

        The property `RESULT` of the evaluation has ``gauc``, its interval and
        ``baseline_gauc`` (or null).
        """
        super().Do(input_dict, output_dict, exec_properties)
        evaluation = artifact_utils.get_single_instance(
            output_dict["evaluation"]
        )
        blessing = artifact_utils.get_single_instance(output_dict["blessing"])
        has_baseline = bool(input_dict.get("baseline_model"))
        model = tfma.constants.CANDIDATE_KEY if has_baseline else None
        found: dict[str, Any] = {
            name: _overall(evaluation.uri, model)[name] for name in _VALUES
        }
        baseline = (
            _overall(evaluation.uri, tfma.constants.BASELINE_KEY)["gauc"]
            if has_baseline
            else None
        )
        config = tfma.EvalConfig()
        proto_utils.json_to_proto(exec_properties["eval_config"], config)
        blessed = blessing.get_int_custom_property("blessed") == 1
        found |= {
            "baseline_gauc": baseline,
            "refused": ""
            if blessed
            else _refused(found["gauc"], baseline, config),
        }
        evaluation.set_string_custom_property(RESULT, dumps(found))


def _overall(folder: str, model: str | None) -> dict[str, float]:
    """Returns the metrics over all impressions."""
    result = tfma.load_eval_result(folder, model_name=model)
    # NaN comes as text.
    return {
        name: float(value["doubleValue"])
        for name, value in result.get_metrics_for_slice(()).items()
        if "doubleValue" in value
    }


def _refused(
    gauc: float, baseline: float | None, config: tfma.EvalConfig
) -> str:
    """Returns why TFMA's thresholds refuse a model."""
    ((bounds,),) = (
        metric.per_slice_thresholds
        for spec in config.metrics_specs
        for metric in spec.metrics
    )
    least = bounds.threshold.value_threshold.lower_bound.value
    allowed = -bounds.threshold.change_threshold.absolute.value
    if math.isnan(gauc):
        return "no user has clicked and not clicked impressions, so no GAUC"
    if gauc < least or baseline is None:
        return f"below evaluator.min_gauc {least:g}"
    return (
        f"{baseline - gauc:.4f} below the last blessed model's GAUC "
        f"{baseline:.4f}, more than evaluator.max_gauc_drop {allowed:g}"
    )


class RecordedEvaluator(evaluator_component.Evaluator):
    """Evaluator whose verdict can be read from ML Metadata."""

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)
