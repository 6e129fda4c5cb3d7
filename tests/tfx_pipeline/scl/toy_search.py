"""Search events and item content in which there is something to learn."""

from __future__ import annotations

import pathlib

import numpy as np
import tensorflow as tf

from muse_tools.datasets import table_writer
from muse_tools.datasets.item_content import ItemContent, ItemContentWriter

WIDTHS = {"image": 12, "words": 6}
ITEMS = 60
CATEGORIES = 3


def write_content(folder: pathlib.Path, seed: int = 0) -> ItemContent:
    """Writes items: a hidden style under loud noise, some modality missing."""
    rng = np.random.default_rng(seed)
    ids = np.arange(1, ITEMS + 1) * 1_000_003
    with ItemContentWriter(folder, WIDTHS, source="test") as writer:
        writer.add(
            ids,
            {
                "image": _view(rng, styles(), 12),
                "words": _view(rng, styles(), 6)
                * (np.arange(ITEMS) % 5 > 0)[:, None],
            },
        )
    return ItemContent.open(folder)


def styles() -> np.ndarray:
    """Returns the hidden style of every item, float32 (60, 3)."""
    return np.random.default_rng(7).normal(size=(ITEMS, 3)).astype(np.float32)


def _view(rng: np.random.Generator, hidden: np.ndarray, width: int):
    """Shows the style in three dimensions, noise in all others."""
    noise = 3.0 * rng.normal(size=(len(hidden), width))
    noise[:, :3] = 0.05 * noise[:, :3] + hidden
    return noise.astype(np.float32)


def event(rng: np.random.Generator, number: int) -> dict:
    """Returns one search: a query in the style of what is then bought."""
    item = int(rng.integers(ITEMS))
    query = _view(rng, styles()[[item]], 12)[0]
    clicked = rng.choice(ITEMS, rng.integers(0, 4), replace=False)
    return {
        "query_id": [number],
        "time": [number],
        "query_image": query.tolist(),
        "purchased_item_id": [(item + 1) * 1_000_003],
        "clicked_item_ids": [
            (int(other) + 1) * 1_000_003 for other in clicked if other != item
        ],
    }


def write_events(
    folder: pathlib.Path, count: int, files: int = 2, seed: int = 1
) -> tuple[str, list[dict]]:
    """Writes events; returns the pattern of the files and the events."""
    rng = np.random.default_rng(seed)
    events = [event(rng, number) for number in range(1, count + 1)]
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(files):
        with tf.io.TFRecordWriter(
            str(folder / f"part-{number}.gz"), options="GZIP"
        ) as writer:
            for one in events[number::files]:
                writer.write(example(one))
    return str(folder / "*.gz"), events


def example(one: dict) -> bytes:
    """Returns an event as a serialized Example."""
    message = tf.train.Example()
    for name, values in one.items():
        feature = message.features.feature[name]
        if name.startswith("query_") and name != "query_id":
            feature.float_list.value.extend(values)
        else:
            feature.int64_list.value.extend(values)
    return message.SerializeToString()


def write_item_features(folder: pathlib.Path) -> None:
    """Writes the raw table that has the categories."""
    from muse_tools.datasets import raw_rows

    ids = np.arange(1, ITEMS + 1) * 1_000_003
    features = [np.arange(ITEMS) % CATEGORIES + 1, ids * 0 + 1, ids * 0 + 1]
    table_writer.write_table(
        folder / "item_features.parquet", raw_rows.item_rows(ids, features)
    )
