"""The cache notices other data, and nothing else."""

from __future__ import annotations

import json
import os
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from muse_tools.datasets import fingerprints


def write_tables(folder: pathlib.Path) -> pathlib.Path:
    folder.mkdir()
    for name in ("train_samples", "item_features"):
        (folder / f"{name}.parquet").write_bytes(b"abc")
    return folder


def raw(folder, memory=None):
    digests = fingerprints.FileDigests(memory)
    found = fingerprints.raw_fingerprint(str(folder), digests)
    digests.save()
    return found


def test_raw_fingerprint_notices_other_tables(tmp_path):
    folder = write_tables(tmp_path / "raw")
    seen = {raw(folder)}
    path = folder / "item_features.parquet"
    path.write_bytes(b"abcd")
    seen.add(raw(folder))
    path.write_bytes(b"abce")
    seen.add(raw(folder))
    (folder / "test_samples.parquet").write_bytes(b"x")
    seen.add(raw(folder))
    assert len(seen) == 4


def test_content_counts_not_size_and_time(tmp_path, monkeypatch):
    """The labels of two rows change places; size and times stay."""
    folder = write_tables(tmp_path / "raw")
    memory = tmp_path / "digests.json"
    path = folder / "train_samples.parquet"

    def write(labels):
        table = pa.table({"label_0": pa.array(labels, pa.int64())})
        pq.write_table(table, path, compression="none", use_dictionary=False)
        os.utime(path, ns=(10**18, 10**18))
        return path.stat()

    monkeypatch.setattr(fingerprints, "_FRESH_NS", 0)
    labels = np.arange(1000) % 2
    before = write(labels)
    first = raw(folder, memory)
    assert raw(folder, memory) == first
    labels[[500, 501]] = labels[[501, 500]]
    after = write(labels)
    assert (after.st_size, after.st_mtime_ns) == (
        before.st_size,
        before.st_mtime_ns,
    )
    assert raw(folder, memory) != first
    # The first content again is the first fingerprint again, at any time.
    labels[[500, 501]] = labels[[501, 500]]
    write(labels)
    os.utime(path)
    assert raw(folder, memory) == first


def test_a_file_is_read_once(tmp_path, monkeypatch):
    folder = write_tables(tmp_path / "raw")
    memory = tmp_path / "digests.json"
    read = []
    digest_of = fingerprints.file_fingerprint

    def counted(path):
        read.append(path.name)
        return digest_of(path)

    monkeypatch.setattr(fingerprints, "file_fingerprint", counted)
    monkeypatch.setattr(fingerprints, "_FRESH_NS", 0)
    first = raw(folder, memory)
    assert sorted(read) == ["item_features.parquet", "train_samples.parquet"]
    read.clear()
    assert raw(folder, memory) == first and read == []
    (folder / "item_features.parquet").write_bytes(b"abd")
    assert raw(folder, memory) != first
    assert read == ["item_features.parquet"]


def test_what_changed_a_moment_ago_is_read_again(tmp_path):
    """Two changes may fall into one tick of the file system's clock."""
    folder = write_tables(tmp_path / "raw")
    memory = tmp_path / "digests.json"
    raw(folder, memory)
    assert json.loads(memory.read_text()) == {}


def test_each_table_of_the_embeddings_has_a_fingerprint(tmp_path):
    folder = write_tables(tmp_path / "raw")
    for name in ("item_content", "search_events"):
        (folder / f"{name}.parquet").write_bytes(b"abc")

    def search():
        return fingerprints.search_fingerprints(
            str(folder), fingerprints.FileDigests()
        )

    before = search()
    samples = raw(folder)

    def changed_by(name):
        path = folder / f"{name}.parquet"
        path.write_bytes(path.read_bytes() + b"d")
        after = search()
        return {table for table in after if after[table] != before[table]}

    assert set(before) == {"item_content", "search_events", "item_features"}
    assert changed_by("train_samples") == set()
    samples_after = raw(folder)
    assert samples_after != samples
    assert changed_by("search_events") == {"search_events"}
    assert changed_by("item_content") == {"search_events", "item_content"}
    # And the join does not run again for new searches.
    assert raw(folder) == samples_after
