"""Converts request-grouped Examples to extracts of TFMA.

TFMA's own extractors expect one label and one prediction per Example. Here an
Example is a request with many candidates, and slices depend on the candidate.
So a request becomes one extract for each combination of slice values, with
vectors of labels and predictions, which TFMA's metrics flatten.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable, Iterator
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis import constants

from tfx_pipeline import features
from tfx_pipeline.evaluation import slices

_SIGNATURE = "serving_default"
_BATCH = 64


def label_column(label: str) -> str:
    """Returns the column of a label in Examples; "" is the first label."""
    return f"label_{label}" if label else features.CLICKS


def output_of(label: str) -> str:
    """Returns the model's output for a label; "" is the first label."""
    return f"{label or 'click'}_probability"


def custom_eval_shared_model(
    eval_saved_model_path: str,
    model_name: str,
    eval_config: tfma.EvalConfig,
    **unused: Any,
) -> tfma.types.EvalSharedModel:
    """Describes a SavedModel for the extractor; the Evaluator calls it."""
    baselines = {
        spec.name for spec in eval_config.model_specs if spec.is_baseline
    }
    return tfma.types.EvalSharedModel(
        model_path=eval_saved_model_path,
        model_name=model_name,
        model_type=tfma.TF_GENERIC,
        is_baseline=model_name in baselines,
        # The first model has no baseline.
        rubber_stamp=not baselines,
    )


def custom_extractors(
    eval_shared_model: Any,
    eval_config: tfma.EvalConfig,
    tensor_adapter_config: Any,
) -> list[tfma.extractors.Extractor]:
    """Returns the extractors; the Evaluator calls it."""
    models = (
        eval_shared_model
        if isinstance(eval_shared_model, list)
        else [eval_shared_model]
    )
    names = [
        key for spec in eval_config.slicing_specs for key in spec.feature_keys
    ]
    labels = [
        name
        for spec in eval_config.metrics_specs
        for name in spec.output_names or [""]
    ]
    paths = {
        model.model_name if len(models) > 1 else "": model.model_path
        for model in models
    }
    return [
        tfma.extractors.Extractor(
            stage_name="ExtractRequests",
            ptransform=_ExtractRequests(paths, labels, names),
        ),
        tfma.extractors.SliceKeyExtractor(
            eval_config=eval_config, materialize=False
        ),
    ]


class _ExtractRequests(beam.PTransform):
    def __init__(
        self, model_paths: dict[str, str], labels: list[str], names: list[str]
    ) -> None:
        super().__init__()
        self._scored = _Extract(model_paths, labels, names)

    def expand(self, extracts: beam.PCollection) -> beam.PCollection:
        scored = extracts | "Score" >> beam.ParDo(self._scored)
        kept = scored | "Count" >> beam.CombineGlobally(_KeptValues())
        return scored | "Name" >> beam.Map(
            _named, beam.pvalue.AsSingleton(kept)
        )


class _Extract(beam.DoFn):
    """Scores requests; slices still have values instead of group names."""

    def __init__(
        self, model_paths: dict[str, str], labels: list[str], names: list[str]
    ) -> None:
        self._model_paths = model_paths
        self._labels = labels
        self._names = names

    def setup(self) -> None:
        # Keep the loaded object: its signatures do not own the variables.
        self._loaded = {
            name: tf.saved_model.load(path)
            for name, path in self._model_paths.items()
        }

    def process(self, extracts: dict[str, Any]) -> Iterator[dict[str, Any]]:
        batch = extracts[constants.ARROW_RECORD_BATCH_KEY]
        column = batch.column(
            batch.schema.get_field_index(constants.ARROW_INPUT_COLUMN)
        )
        serialized = [values[0] for values in column.to_pylist()]
        for start in range(0, len(serialized), _BATCH):
            yield from self._requests(serialized[start : start + _BATCH])

    def _requests(self, serialized: list[bytes]) -> Iterator[dict[str, Any]]:
        examples = tf.constant(serialized)
        answers = {
            name: model.signatures[_SIGNATURE](examples=examples)
            for name, model in self._loaded.items()
        }
        scores = {
            name: {
                label: answer[output_of(label)].numpy()
                for label in self._labels
            }
            for name, answer in answers.items()
        }
        for row, text in enumerate(serialized):
            example = tf.train.Example.FromString(text)
            labels = {
                label: slices.example_values(example, label_column(label))
                for label in self._labels
            }
            for values, chosen in slices.of_request(example, self._names):
                predictions = {
                    model: {label: s[row, chosen] for label, s in of.items()}
                    for model, of in scores.items()
                }
                yield {
                    constants.FEATURES_KEY: {
                        features.USER_ID: slices.example_values(
                            example, features.USER_ID
                        ),
                        **values,
                    },
                    constants.LABELS_KEY: {
                        label: of[chosen].astype(np.float32)
                        for label, of in labels.items()
                    },
                    constants.PREDICTIONS_KEY: (
                        predictions if len(predictions) > 1 else predictions[""]
                    ),
                    constants.EXAMPLE_WEIGHTS_KEY: np.ones(1, np.float32),
                }


class _KeptValues(beam.CombineFn):
    """Counts the impressions of each value, and returns `slices.kept`."""

    def create_accumulator(self) -> slices.Counts:
        return {}

    def add_input(
        self, accumulator: slices.Counts, element: dict[str, Any]
    ) -> slices.Counts:
        impressions = len(element[constants.LABELS_KEY][""])
        for name, values in element[constants.FEATURES_KEY].items():
            if name != features.USER_ID:
                counter = accumulator.setdefault(name, collections.Counter())
                for value in values:
                    counter[value] += impressions
        return accumulator

    def merge_accumulators(
        self, accumulators: Iterable[slices.Counts]
    ) -> slices.Counts:
        merged: slices.Counts = {}
        for accumulator in accumulators:
            for name, counter in accumulator.items():
                merged.setdefault(name, collections.Counter()).update(counter)
        return merged

    def extract_output(self, accumulator: slices.Counts) -> dict[str, list]:
        return slices.kept(accumulator)


def _named(
    extracts: dict[str, Any], kept: dict[str, list[Any]]
) -> dict[str, Any]:
    """Replaces the values of slices by the names of their groups."""
    values = extracts[constants.FEATURES_KEY]
    named = {
        name: np.asarray(slices.names_of(of, kept[name]))
        for name, of in values.items()
        if name != features.USER_ID
    }
    return {**extracts, constants.FEATURES_KEY: {**values, **named}}
