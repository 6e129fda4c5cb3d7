"""Warmup requests that TensorFlow Serving replays before a version serves."""

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from muse_keras.tables import ItemTable
from schemas.columns import Feature, Features
from serving.export.cached_ranking import stamp_of
from serving.export.feature_names import prefixed
from serving.export.request import (
    Specs,
    item_inputs,
    prefetch_inputs,
    rank_cached_inputs,
    rank_inputs,
)

MODEL_NAME = "muse"
FILE_NAME = "tf_serving_warmup_requests"
# TensorFlow Serving rejects files with more records.
MAX_RECORDS = 1000
# Reserved: no user has the smallest int64 as its id.
WARMUP_USER = np.iinfo(np.int64).min

Request = tuple[str, dict[str, Any]]


def requests(
    examples: Sequence[bytes],
    signatures: Mapping[str, Any],
    item_table: ItemTable,
    features: Features,
) -> Iterator[Request]:
    """Yield one request per Example and signature."""
    specs = rank_inputs(features)
    for serialized in examples:
        ranking = _rank_inputs(serialized, specs)
        inputs: dict[str, dict[str, Any]] = {
            "serving_default": {"examples": np.array([serialized], object)},
            "rank": ranking,
            "explain": ranking,
            "embed": {"item_ids": ranking["candidate_item_ids"][0]},
            **_cache_inputs(ranking, item_table, features),
        }
        if "upsert_items" in signatures:
            inputs["upsert_items"] = _no_items(features, item_table.dim)
        # In this order, so that prefetched histories are then ranked.
        for name in signatures:
            if name in inputs:
                yield name, inputs[name]


def example_of(
    item_table: ItemTable, features: Features, size: int = 8
) -> bytes:
    """Return a small Example of known items, if the caller gives none."""
    ids = item_table.item_ids[:size]
    items = {
        name: item_table.features[name][1 : size + 1] for name in features.item
    }

    def zeros(group: str, own: Mapping[str, Feature], count: int) -> Any:
        return {
            name: np.zeros(count * one.raw_width, one.dtype)
            for name, one in prefixed(group, own).items()
        }

    behaviors = {
        f"behavior_{name}": items[name]
        for name in features.behavior
        if name in items
    }
    values: dict[str, npt.NDArray[Any]] = {
        "user_id": np.ones(1, np.int64),
        **zeros("user", features.user, 1),
        "behavior_item_ids": ids,
        **behaviors,
        **zeros("behavior", features.of_events, len(ids)),
        "candidate_item_ids": ids,
        **{f"candidate_{name}": values for name, values in items.items()},
        **zeros("context", features.context, len(ids)),
        **zeros("candidate", features.candidate, len(ids)),
        "candidate_popularity": np.zeros_like(ids),
        "clicks": np.zeros_like(ids),
    }
    example = tf.train.Example()
    for name, array in values.items():
        feature = example.features.feature[name]
        kind = (
            feature.float_list
            if array.dtype.kind == "f"
            else feature.int64_list
        )
        kind.value.extend(array.ravel().tolist())
    serialized: bytes = example.SerializeToString()
    return serialized


def run(signatures: Mapping[str, Any], recorded: Iterable[Request]) -> None:
    """Call the signatures with the warmup requests.

    A record that fails would prevent the server from loading the version. NaN
    in an answer means that the weights are broken.
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
    """Run functions unoptimized: optimizing takes longer than one call."""
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
    ranking: Mapping[str, Any], item_table: ItemTable, features: Features
) -> dict[str, dict[str, Any]]:
    """Return inputs for the signatures of the user cache.

    They store and rank a history as long as the Example's, for a reserved user
    id, so that no real request can get it.
    """
    given = {**ranking, "user_id": np.array([WARMUP_USER], np.int64)}
    history = {name: given[name] for name in prefetch_inputs(features)}
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
        "rank_cached": {
            name: given[name] for name in rank_cached_inputs(features)
        },
        "user_cache": {"user_id": given["user_id"]},
    }


def _no_items(features: Features, dim: int) -> dict[str, Any]:
    inputs = {
        name: np.zeros([n or 0 for n in spec.shape], spec.dtype.as_numpy_dtype)
        for name, spec in item_inputs(features).items()
    }
    return {
        "item_ids": np.zeros(0, np.int64),
        "embedding": np.zeros((0, dim), np.float32),
        **inputs,
    }


def _rank_inputs(serialized: bytes, specs: Specs) -> dict[str, Any]:
    """Return the inputs of `rank` that an Example holds.

    A request has one value of each context feature, so that of the first
    candidate is used.
    """
    features = tf.train.Example.FromString(serialized).features.feature
    given = sorted(features)
    inputs = {}
    for name, spec in specs.items():
        held = features[name]
        floats = spec.dtype.is_floating
        values = np.array(
            held.float_list.value if floats else held.int64_list.value,
            spec.dtype.as_numpy_dtype,
        )
        # A history may be empty.
        if not values.size and not name.startswith("behavior_"):
            raise ValueError(
                f"`warmup_examples` must hold the feature {name!r}. "
                f"Received: {given}"
            )
        shape = [1, *(-1 if n is None else n for n in spec.shape[1:])]
        if name.startswith("context_"):
            values = values[: abs(int(np.prod(shape)))]
        try:
            inputs[name] = values.reshape(shape)
        except ValueError as error:
            raise ValueError(
                f"`warmup_examples` must hold {name!r} in the shape "
                f"{spec.shape} of a request. Received: {values.size} values"
            ) from error
    return inputs
