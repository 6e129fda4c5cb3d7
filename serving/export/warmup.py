"""Warmup requests, replayed by TensorFlow Serving before a version serves."""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from muse_keras.tables import ItemTable
from muse_keras.tensorflow import FeatureNames
from serving.export.cached_ranking import stamp_of

MODEL_NAME = "muse"
FILE_NAME = "tf_serving_warmup_requests"
# TensorFlow Serving refuses files with more records.
MAX_RECORDS = 1000
# Reserved: no user has the smallest int64 as id.
WARMUP_USER = np.iinfo(np.int64).min

Request = tuple[str, dict[str, Any]]


def requests(
    examples: Sequence[bytes],
    signatures: Mapping[str, Any],
    item_table: ItemTable,
) -> Iterator[Request]:
    """Yield one request per Example and signature."""
    specs = signatures["rank"].structured_input_signature[1]
    for serialized in examples:
        ranking = _rank_inputs(serialized, specs)
        inputs: dict[str, dict[str, Any]] = {
            "serving_default": {"examples": np.array([serialized], object)},
            "rank": ranking,
            "explain": ranking,
            "embed": {"item_ids": ranking["candidate_item_ids"][0]},
            **_cache_inputs(ranking, item_table),
        }
        if "upsert_items" in signatures:
            upsert = signatures["upsert_items"].structured_input_signature[1]
            inputs["upsert_items"] = _no_items(upsert, item_table.dim)
        # In this order: what is prefetched is then ranked with.
        for name in signatures:
            if name in inputs:
                yield name, inputs[name]


def example_of(
    item_table: ItemTable, names: FeatureNames, size: int = 8
) -> bytes:
    """Return a small Example of known items, where the caller gives none."""
    ids = item_table.item_ids[:size]
    features = {
        name: values[1 : size + 1]
        for name, values in item_table.features.items()
    }
    values: dict[str, npt.NDArray[np.int64]] = {
        "user_id": np.ones(1, np.int64),
        **{name: np.zeros(1, np.int64) for name in names.user},
        "behavior_item_ids": ids,
        **{
            name: features[name.removeprefix("behavior_")]
            for name in names.behavior
        },
        "candidate_item_ids": ids,
        **{f"candidate_{name}": ids for name, ids in features.items()},
        "candidate_popularity": np.zeros_like(ids),
        "clicks": np.zeros_like(ids),
    }
    example = tf.train.Example()
    for name, array in values.items():
        example.features.feature[name].int64_list.value.extend(array.tolist())
    serialized: bytes = example.SerializeToString()
    return serialized


def run(signatures: Mapping[str, Any], recorded: Iterable[Request]) -> None:
    """Call the signatures with the warmup requests.

    A record that fails would keep the server from loading the version. NaN in
    an answer means that the weights are broken.
    """
    for name, inputs in recorded:
        try:
            with _as_traced():
                outputs = signatures[name](
                    **{key: tf.constant(value) for key, value in inputs.items()}
                )
        except tf.errors.OpError as error:
            raise ValueError(
                f"`warmup_examples`: the signature {name!r} failed on one of "
                f"them: {error.message}"
            ) from error
        for key, output in outputs.items():
            if output.dtype.is_floating and not np.isfinite(output).all():
                raise ValueError(
                    f"The signature {name!r} returned a `{key}` that is not "
                    "finite; the model's weights are broken."
                )


@contextlib.contextmanager
def _as_traced() -> Iterator[None]:
    """Run functions as they are: to optimize one takes longer than its call."""
    options = tf.config.optimizer
    before = options.get_experimental_options()
    options.set_experimental_options({"disable_meta_optimizer": True})
    try:
        yield
    finally:
        options.set_experimental_options(
            {"disable_meta_optimizer": False} | before
        )


def write_requests(
    folder: Path, recorded: Iterable[Request], model_name: str
) -> int:
    """Write requests of any model as TFRecords of PredictionLog."""
    from tensorflow_serving.apis import prediction_log_pb2

    count = 0
    with tf.io.TFRecordWriter(str(folder / FILE_NAME)) as writer:
        for name, inputs in itertools.islice(recorded, MAX_RECORDS):
            log = prediction_log_pb2.PredictionLog()
            request = log.predict_log.request
            request.model_spec.name = model_name
            request.model_spec.signature_name = name
            for key, value in inputs.items():
                request.inputs[key].CopyFrom(tf.make_tensor_proto(value))
            writer.write(log.SerializeToString())
            count += 1
    return count


def _cache_inputs(
    ranking: Mapping[str, Any], item_table: ItemTable
) -> dict[str, dict[str, Any]]:
    """Return inputs for the signatures of the user cache.

    They store and rank a history of the length of the Example's, for an id
    that no user has: it can answer no real request.
    """
    user = np.array([WARMUP_USER], np.int64)
    history = {**ranking, "user_id": user}
    candidates = history.pop("candidate_item_ids")
    ids = history.pop("behavior_item_ids")
    return {
        "prefetch": {**history, "behavior_item_ids": ids},
        "prefetch_rows": {
            **history,
            "behavior_rows": np.where(
                ids == 0, -1, item_table.rows(ids)
            ).astype(np.int32),
            "table_stamp": np.array([stamp_of(item_table)], np.int64),
        },
        "resolve_items": {"item_ids": ids[0]},
        "rank_cached": {"user_id": user, "candidate_item_ids": candidates},
        "user_cache": {"user_id": user},
    }


def _no_items(specs: Mapping[str, Any], dim: int) -> dict[str, Any]:
    return {
        name: np.zeros((0, dim)[: spec.shape.rank], spec.dtype.as_numpy_dtype)
        for name, spec in specs.items()
    }


def _rank_inputs(
    serialized: bytes, specs: Mapping[str, tf.TensorSpec]
) -> dict[str, Any]:
    """Return the inputs of `rank` that an Example holds."""
    features = tf.train.Example.FromString(serialized).features.feature
    given = sorted(features)
    inputs = {
        name: np.array(features[name].int64_list.value, np.int64)
        for name in specs
    }
    for name, spec in specs.items():
        if spec.shape.rank == 2:
            inputs[name] = inputs[name][np.newaxis]
        # A history may be empty.
        if not inputs[name].size and not name.startswith("behavior_"):
            raise ValueError(
                f"`warmup_examples` must hold the feature {name!r}. "
                f"Received: {given}"
            )
    return inputs
