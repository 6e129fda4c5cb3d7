"""TFRecord files against TensorFlow's own reader and writer."""

from __future__ import annotations

import gzip

import numpy as np
import pytest
import tensorflow as tf

from tfx_pipeline.transforms import tfrecords

pytestmark = pytest.mark.tf

RNG = np.random.default_rng(1)
RECORDS = [b"", b"\0", b"abc", RNG.bytes(70_000), b"\xff" * 300_000]


def read(path):
    # TensorFlow checks both checksums of every record.
    return [
        record.numpy()
        for record in tf.data.TFRecordDataset(
            str(path), compression_type="GZIP"
        )
    ]


def test_framing_is_that_of_tensorflow(tmp_path):
    path = tmp_path / "expected"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in RECORDS:
            writer.write(record)
    assert tfrecords.frame(RECORDS) == path.read_bytes()
    assert tfrecords.frame([]) == b""


@pytest.mark.parametrize("size", [1, 2, 5])
def test_records_are_read_back_in_order(tmp_path, size):
    path = tmp_path / "records.gz"
    with tfrecords.TFRecordWriter(str(path)) as writer:
        for start in range(0, len(RECORDS), size):
            writer.write(RECORDS[start : start + size])
    assert read(path) == RECORDS
    assert gzip.decompress(path.read_bytes()) == tfrecords.frame(RECORDS)
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_without_records_is_readable(tmp_path):
    path = tmp_path / "records.gz"
    with tfrecords.TFRecordWriter(str(path)):
        pass
    assert read(path) == []


def test_an_error_leaves_the_old_file(tmp_path):
    path = tmp_path / "records.gz"
    with tfrecords.TFRecordWriter(str(path)) as writer:
        writer.write([b"old"])
    with pytest.raises(OSError, match="no more"):
        with tfrecords.TFRecordWriter(str(path)) as writer:
            writer.write([b"new"])
            raise OSError("no more")
    assert read(path) == [b"old"] and list(tmp_path.iterdir()) == [path]


def test_a_second_writer_replaces_the_file(tmp_path):
    path = tmp_path / "records.gz"
    for records in ([b"one"], [b"two", b"three"]):
        with tfrecords.TFRecordWriter(str(path)) as writer:
            writer.write(records)
    assert read(path) == [b"two", b"three"]


def test_an_error_of_the_disk_is_raised(tmp_path, monkeypatch):
    def fail(self, data):
        raise OSError("disk full")

    monkeypatch.setattr(tfrecords.TFRecordWriter, "_compress", fail)
    with pytest.raises(OSError, match="disk full"):
        with tfrecords.TFRecordWriter(str(tmp_path / "a.gz")) as writer:
            writer.write([b"one"])
    assert list(tmp_path.iterdir()) == []


def test_what_killed_writers_leave_is_removed(tmp_path):
    path = tmp_path / "records.gz"
    with tfrecords.TFRecordWriter(str(path)) as writer:
        writer.write([b"new"])
    killed = tfrecords.TFRecordWriter(str(path)).__enter__()
    assert len(list(tmp_path.iterdir())) == 2
    tfrecords.remove_unfinished(str(tmp_path))
    assert list(tmp_path.iterdir()) == [path]
    assert read(path) == [b"new"]
    killed._file.close()
    tfrecords.remove_unfinished(str(tmp_path))  # Nothing is there.
