"""Evaluator that records its result in ML Metadata.

TFX's own component writes its numbers only to a file of TFMA, and does not say
why it refuses a model.
"""

from __future__ import annotations

import json
import math
from typing import Any

import tensorflow_model_analysis as tfma
from apache_beam.io.filesystems import FileSystems

from serving.files import dumps
from tfx_pipeline.components.artifacts import RESULT
from tfx_pipeline.evaluation import extractors
from tfx_pipeline.tfx_internals import (
    Artifact,
    EvaluatorExecutor,
    artifact_utils,
    evaluator_component,
    executor_spec,
    proto_utils,
)
from tfx_pipeline.transforms import shuffle_files, steps

_VALUES = ("gauc", "gauc_lower", "gauc_upper")


class Executor(EvaluatorExecutor):
    """Evaluates and records the result as a property of the evaluation."""

    def Do(
        self,
        input_dict: dict[str, list],
        output_dict: dict[str, list],
        exec_properties: dict[str, Any],
    ) -> None:
        """Evaluates a model as TFX does.

        The property `RESULT` of the evaluation has ``gauc`` of the first
        label, its interval, ``baseline_gauc`` (or null), ``label`` (its
        declared name) and ``labels``: GAUC and interval of all others.
        """
        evaluation = artifact_utils.get_single_instance(
            output_dict["evaluation"]
        )
        (examples,) = input_dict["examples"]
        splits = json.loads(exec_properties["example_splits"])
        with shuffle_files.directory_for(
            self.make_pipeline().runner, evaluation.uri
        ) as folder:
            extractors.SHUFFLE.set(
                (folder, steps.partitions_for(_size(examples, splits)))
            )
            super().Do(input_dict, output_dict, exec_properties)
        blessing = artifact_utils.get_single_instance(output_dict["blessing"])
        has_baseline = bool(input_dict.get("baseline_model"))
        model = tfma.constants.CANDIDATE_KEY if has_baseline else None
        config = tfma.EvalConfig()
        proto_utils.json_to_proto(exec_properties["eval_config"], config)
        result = tfma.load_eval_result(evaluation.uri, model_name=model)
        gaucs = {}
        for spec in config.metrics_specs:
            (output,) = spec.output_names or [""]
            gaucs[output] = _overall(result, output)
        baseline = None
        if has_baseline:
            before = tfma.load_eval_result(
                evaluation.uri, model_name=tfma.constants.BASELINE_KEY
            )
            baseline = _overall(before)["gauc"]
        blessed = blessing.get_int_custom_property("blessed") == 1
        found = {
            **gaucs.pop(""),
            "baseline_gauc": baseline,
            "refused": "",
            "label": _settings(config.metrics_specs[0])["label"],
            "labels": gaucs,
        }
        if not blessed:
            found["refused"] = _refused(found, config)
        evaluation.set_string_custom_property(RESULT, dumps(found))


def _size(examples: Artifact, splits: list[str]) -> int:
    """Returns the bytes of the files of the splits."""
    patterns = [
        f"{uri}/*"
        for split in splits
        for uri in artifact_utils.get_split_uris([examples], split)
    ]
    return sum(
        file.size_in_bytes
        for found in FileSystems.match(patterns)
        for file in found.metadata_list
    )


def _overall(
    result: tfma.EvalResult, output_name: str = ""
) -> dict[str, float]:
    """Returns GAUC and its interval over all impressions."""
    metrics = result.get_metrics_for_slice((), output_name)
    # TFMA returns NaN as a text.
    return {name: float(metrics[name]["doubleValue"]) for name in _VALUES}


def _settings(spec: tfma.MetricsSpec) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(spec.metrics[0].config)
    return found


def _refused(found: dict[str, Any], config: tfma.EvalConfig) -> str:
    """Returns the reason why TFMA's thresholds refuse a model."""
    first, *others = config.metrics_specs
    gauc, baseline = found["gauc"], found["baseline_gauc"]
    bounds = first.metrics[0].per_slice_thresholds[0].threshold
    allowed = -bounds.change_threshold.absolute.value
    least = _least(first)
    if math.isnan(gauc):
        return _no_gauc(found["label"])
    if least is not None and gauc < least:
        return f"below evaluator.min_gauc {least:g}"
    for spec in others:
        (name,) = spec.output_names
        value = found["labels"][name]["gauc"]
        least = _least(spec)
        if least is not None and math.isnan(value):
            return _no_gauc(name)
        if least is not None and value < least:
            return (
                f"GAUC of {name} {value:.4f} below evaluator.min_gauc_of "
                f"{least:g}"
            )
    return (
        f"{baseline - gauc:.4f} below the last blessed model's GAUC "
        f"{baseline:.4f}, more than evaluator.max_gauc_drop {allowed:g}"
    )


def _least(spec: tfma.MetricsSpec) -> float | None:
    for bounds in spec.metrics[0].per_slice_thresholds:
        least: float = bounds.threshold.value_threshold.lower_bound.value
        return least
    return None


def _no_gauc(label: str) -> str:
    if label == "click":
        return "no user has clicked and not clicked impressions, so no GAUC"
    return f"no user has impressions with and without {label}, so no GAUC of it"


class RecordedEvaluator(evaluator_component.Evaluator):
    """Evaluator that records its verdict in ML Metadata."""

    EXECUTOR_SPEC = executor_spec.BeamExecutorSpec(Executor)
