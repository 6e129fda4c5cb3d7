"""Reads search events as batches of inputs of `muse_keras.models.SCL`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from muse_tools.datasets.errors import DataError
from muse_tools.datasets.item_content import ItemContent
from muse_tools.datasets.search_tables import (
    CLICKED_ITEM_IDS,
    PURCHASED_ITEM_ID,
)
from tfx_pipeline.features import QUERY_PREFIX
from tfx_pipeline.training import records


def query_modalities(file_patterns: Sequence[str]) -> dict[str, int]:
    """Returns the modalities of the queries and their widths.

    Raises:
        DataError: ``NO_SEARCH_EVENTS``: there is no event.
    """
    for record in records.record_dataset(file_patterns).take(1):
        example = tf.train.Example.FromString(record.numpy())
        return {
            name.removeprefix(QUERY_PREFIX): len(feature.float_list.value)
            for name, feature in sorted(example.features.feature.items())
            if name.startswith(QUERY_PREFIX)
            and feature.WhichOneof("kind") == "float_list"
        }
    raise DataError(
        "NO_SEARCH_EVENTS",
        f"no search event in {', '.join(file_patterns)}.",
        "write more of them into search_events, or change scl.eval_fraction.",
    )


def tower_modalities(
    queries: Mapping[str, int], items: Mapping[str, int]
) -> dict[str, int]:
    """Returns the modalities of a tower that queries and items share.

    Raises:
        DataError: ``MODALITY_WIDTHS``: a modality has two widths.
    """
    for name in sorted(queries.keys() & items.keys()):
        if queries[name] != items[name]:
            raise DataError(
                "MODALITY_WIDTHS",
                f"modality {name}: queries are {queries[name]} wide, items "
                f"{items[name]}.",
                "give both the same encoder, or set scl.shared_tower=false.",
            )
    return dict(sorted({**queries, **items}.items()))


def search_dataset(
    file_patterns: Sequence[str],
    content: ItemContent,
    *,
    query_widths: Mapping[str, int],
    item_widths: Mapping[str, int],
    batch_events: int,
    hard_negatives: int = 0,
    shuffle: int = 0,
    epochs: int = 1,
    seed: int = 0,
    skip_batches: int = 0,
    drop_remainder: bool = True,
) -> tf.data.Dataset:
    """Reads search events and gathers the content of their items.

    A batch may contain events of two epochs. H is ``hard_negatives``, the most
    clicked items per event.

    Returns:
        Dataset of dictionaries: ``query`` and ``item``, float32 (B, width) by
        modality; ``item_ids`` int64 (B,); and, if H > 0, ``negatives``, float32
        (B, H, width) by modality, and ``negative_mask`` bool (B, H).
    """
    spec: dict[str, Any] = {
        PURCHASED_ITEM_ID: tf.io.FixedLenFeature([], tf.int64),
        CLICKED_ITEM_IDS: tf.io.FixedLenSequenceFeature(
            [], tf.int64, allow_missing=True
        ),
        **{
            QUERY_PREFIX + name: tf.io.FixedLenFeature([width], tf.float32)
            for name, width in query_widths.items()
        },
    }

    def parse(examples: tf.Tensor) -> dict[str, Any]:
        found = tf.io.parse_example(examples, spec)
        ids = found[PURCHASED_ITEM_ID]
        batch = {
            "query": {
                name: found[QUERY_PREFIX + name] for name in query_widths
            },
            "item": _gather(content, ids, item_widths),
            "item_ids": ids,
        }
        if hard_negatives:
            clicked = found[CLICKED_ITEM_IDS][:, :hard_negatives]
            room = hard_negatives - tf.shape(clicked)[1]
            clicked = tf.pad(clicked, [[0, 0], [0, room]])
            clicked = tf.ensure_shape(clicked, [ids.shape[0], hard_negatives])
            batch["negatives"] = _gather(content, clicked, item_widths)
            batch["negative_mask"] = tf.not_equal(clicked, 0)
        return batch

    return (
        records.record_dataset(
            file_patterns, shuffle=shuffle, epochs=epochs, seed=seed
        )
        .batch(batch_events, drop_remainder=drop_remainder)
        .skip(skip_batches)
        .map(parse, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)
        .prefetch(tf.data.AUTOTUNE)
    )


def _gather(
    content: ItemContent, ids: tf.Tensor, widths: Mapping[str, int]
) -> dict[str, tf.Tensor]:
    """Returns the content of items, (…, width); zeros for unknown items.

    The vectors are read from memory-mapped files, so that memory holds only a
    batch.
    """
    names = sorted(widths)
    if not names:
        return {}

    def read(wanted: np.ndarray) -> list[np.ndarray]:
        found = content.features(content.rows_of(wanted))
        return [found[name] for name in names]

    vectors = tf.numpy_function(
        read, [ids], [tf.float32] * len(names), stateful=False
    )
    return {
        name: tf.ensure_shape(values, [*ids.shape, widths[name]])
        for name, values in zip(names, vectors, strict=True)
    }
