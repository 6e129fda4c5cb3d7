"""From request-grouped Examples to what TFMA evaluates.

TFMA's own extractors expect one label and one prediction per Example. Here an
Example is a request with many candidates, and popularity is a property of the
candidate. So each request becomes one extract per popularity bucket, with
vectors of labels and predictions; TFMA's metrics flatten them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import apache_beam as beam
import numpy as np
import tensorflow as tf
import tensorflow_model_analysis as tfma
from tensorflow_model_analysis import constants

from tfx_pipeline import features

HISTORY_SLICE = "history_length"
HISTORY_BOUNDS = (100, 300, 1000)
"""Lower bounds of the buckets of a request's number of behaviors."""
POPULARITY_SLICE = "item_popularity"
POPULARITY_BOUNDS = (1, 10, 100)
"""Lower bounds of the buckets of an item's training impressions."""
_SIGNATURE = "serving_default"
_BATCH = 64
_FEATURE_SPEC = {
    name: tf.io.RaggedFeature(tf.int64)
    for name in (
        features.USER_ID,
        features.BEHAVIOR_ITEM_IDS,
        features.CANDIDATE_POPULARITY,
        features.CLICKS,
    )
}


def bucket_names(bounds: Sequence[int]) -> list[str]:
    """Returns readable names of the buckets that bounds make."""
    edges = [0, *bounds]
    inner = [
        str(low) if low == high - 1 else f"{low}-{high - 1}"
        for low, high in zip(edges[:-1], edges[1:], strict=True)
    ]
    return [*inner, f"{edges[-1]}+"]


def custom_eval_shared_model(
    eval_saved_model_path: str,
    model_name: str,
    eval_config: tfma.EvalConfig,
    **unused: Any,
) -> tfma.types.EvalSharedModel:
    """Names a SavedModel for the extractor; called by the Evaluator."""
    baselines = {
        spec.name for spec in eval_config.model_specs if spec.is_baseline
    }
    return tfma.types.EvalSharedModel(
        model_path=eval_saved_model_path,
        model_name=model_name,
        model_type=tfma.TF_GENERIC,
        is_baseline=model_name in baselines,
        # The first model has nothing to be compared with.
        rubber_stamp=not baselines,
    )


def custom_extractors(
    eval_shared_model: Any,
    eval_config: tfma.EvalConfig,
    tensor_adapter_config: Any,
) -> list[tfma.extractors.Extractor]:
    """Returns the extractors; called by the Evaluator."""
    models = (
        eval_shared_model
        if isinstance(eval_shared_model, list)
        else [eval_shared_model]
    )
    return [
        tfma.extractors.Extractor(
            stage_name="ExtractRequests",
            ptransform=_ExtractRequests(
                {
                    model.model_name if len(models) > 1 else "": (
                        model.model_path
                    )
                    for model in models
                }
            ),
        ),
        tfma.extractors.SliceKeyExtractor(
            eval_config=eval_config, materialize=False
        ),
    ]


class _ExtractRequests(beam.PTransform):
    def __init__(self, model_paths: dict[str, str]) -> None:
        super().__init__()
        self._model_paths = model_paths

    def expand(self, extracts: beam.PCollection) -> beam.PCollection:
        return extracts | beam.ParDo(_Extract(self._model_paths))


class _Extract(beam.DoFn):
    def __init__(self, model_paths: dict[str, str]) -> None:
        self._model_paths = model_paths
        self._history_names = bucket_names(HISTORY_BOUNDS)
        self._popularity_names = bucket_names(POPULARITY_BOUNDS)

    def setup(self) -> None:
        # The loaded object must outlive its signatures.
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
        parsed = {
            name: value.to_list()
            for name, value in tf.io.parse_example(
                examples, _FEATURE_SPEC
            ).items()
        }
        predictions = {
            name: model.signatures[_SIGNATURE](examples=examples)[
                "click_probability"
            ].numpy()
            for name, model in self._loaded.items()
        }
        for row in range(len(serialized)):
            clicks = np.asarray(parsed[features.CLICKS][row], np.float32)
            popularity = np.digitize(
                parsed[features.CANDIDATE_POPULARITY][row],
                POPULARITY_BOUNDS,
            )
            length = np.digitize(
                np.count_nonzero(parsed[features.BEHAVIOR_ITEM_IDS][row]),
                HISTORY_BOUNDS,
            )
            for bucket in np.unique(popularity):
                chosen = popularity == bucket
                scores = {
                    name: values[row, : len(clicks)][chosen]
                    for name, values in predictions.items()
                }
                yield {
                    constants.FEATURES_KEY: {
                        features.USER_ID: np.asarray(
                            parsed[features.USER_ID][row]
                        ),
                        HISTORY_SLICE: np.asarray(
                            [self._history_names[int(length)]]
                        ),
                        POPULARITY_SLICE: np.asarray(
                            [self._popularity_names[int(bucket)]]
                        ),
                    },
                    constants.LABELS_KEY: clicks[chosen],
                    constants.PREDICTIONS_KEY: (
                        scores if len(scores) > 1 else scores[""]
                    ),
                    constants.EXAMPLE_WEIGHTS_KEY: np.ones(1, np.float32),
                }
