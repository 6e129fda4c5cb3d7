"""Batches between the steps of the join."""

from __future__ import annotations

import pickle

import numpy as np
import pyarrow as pa
import pytest

from tfx_pipeline.transforms import shuffle_files


def batch_of(start, rows):
    return pa.RecordBatch.from_arrays(
        [pa.array(np.arange(start, start + rows))], names=["id"]
    )


def send(directory, batches):
    with shuffle_files.ShuffleFile(directory) as file:
        sent = []
        for key, batch in batches:
            sent += file.put(key, batch)
        sent += file.flush()
    return sent


BATCHES = [
    ("a", batch_of(0, 3)),
    (("b", 1), batch_of(10, 1)),
    ("a", batch_of(20, 0)),
    ("a", batch_of(30, 2)),
]


@pytest.mark.parametrize("files", [False, True])
def test_batches_arrive_by_key_and_in_order(tmp_path, files):
    directory = str(tmp_path / "shuffle") if files else None
    received = {}
    for key, sent in send(directory, BATCHES):
        # What is sent crosses process boundaries.
        received.setdefault(key, []).append(pickle.loads(pickle.dumps(sent)))
    found = {
        key: [
            row["id"] for b in shuffle_files.read(sent) for row in b.to_pylist()
        ]
        for key, sent in received.items()
    }
    assert found == {"a": [0, 1, 2, 30, 31], ("b", 1): [10]}
    batches = list(shuffle_files.read(received["a"]))
    assert [batch.num_rows for batch in batches] == [3, 0, 2]


def test_a_step_writes_one_file_and_sends_little_per_key(tmp_path):
    rng = np.random.default_rng(1)
    wide = pa.RecordBatch.from_arrays(
        [pa.array(rng.integers(0, 1 << 62, 100_000))], names=["id"]
    )
    batches = [(key, wide) for _ in range(5) for key in ("a", "b")]
    sent = send(str(tmp_path), batches)
    assert [key for key, _ in sent] == ["a", "b"]
    assert len(list(tmp_path.iterdir())) == 1
    for _, one in sent:
        assert len(pickle.dumps(one)) < 500
        assert sum(b.num_rows for b in shuffle_files.read([one])) == 500_000


def test_steps_never_share_a_file(tmp_path):
    first, second = (send(str(tmp_path), BATCHES) for _ in range(2))
    assert first[0][1][0] != second[0][1][0]
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("files", [False, True])
def test_nothing_sent_leaves_nothing(tmp_path, files):
    assert send(str(tmp_path) if files else None, []) == []
    assert list(tmp_path.iterdir()) == []
