"""Candidate features by row: exact, and no wider than they must be."""

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from muse_keras.tables import ItemTable
from schemas.columns import Feature
from serving.export.encodings import Encoding
from serving.export.item_features import ItemFeatures


@pytest.mark.parametrize(
    ("entries", "dtype"),
    [(20, "uint16"), (40_000, "uint16"), (70_000, "uint32")],
)
def test_indices_in_the_narrowest_type(
    tmp_path: Path, entries: int, dtype: str
) -> None:
    rng = np.random.default_rng(0)
    known = rng.permutation(np.arange(5, 5 + entries)) * -3
    raw = np.concatenate([known, [0, 7, known[-1]]])
    columns = {"brand": raw, "shop": raw[::-1], "color": 0 * raw}
    table = ItemTable.write(
        tmp_path / "t",
        np.arange(1, len(raw) + 1),
        np.ones((len(raw), 2), np.int8),
        {**columns, "unused": raw},
        "test",
    )
    encodings = {name: Encoding(name, Feature(), known) for name in columns}
    features = ItemFeatures(table, encodings)
    stored = features.by_field.values()
    assert {v.dtype for v in stored} == {tf.as_dtype(dtype)}
    index = {int(item): place for place, item in enumerate(known, 1)} | {0: 0}
    rows = rng.integers(0, len(raw) + 1, (3, 50))
    found = features(tf.constant(rows, tf.int32))
    assert list(found) == list(columns)
    for field in columns:
        stored = np.concatenate([[0], columns[field]])
        expected = [
            [index.get(int(item), entries + 1) for item in line]
            for line in stored[rows]
        ]
        assert found[field].dtype == tf.int64
        assert found[field].numpy().tolist() == expected
