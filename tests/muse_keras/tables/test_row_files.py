"""Tables in files are read as they were written, block by block."""

from pathlib import Path

import numpy as np
import pytest

tf = pytest.importorskip("tensorflow")

from muse_keras.tables import row_files  # noqa: E402
from muse_keras.tables.row_files import Column, StoredRows  # noqa: E402

pytestmark = pytest.mark.tf


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(row_files, "CHUNK_ROWS", 12)
    monkeypatch.setattr(row_files, "_FILE_BYTES", 500)


def write(
    folder: Path, shards: int, **tables: np.ndarray
) -> dict[str, StoredRows]:
    """Write tables by as many writers as there are shards, and open them."""
    prefixes = [str(folder / f"writer{shard}") for shard in range(shards)]
    for shard, prefix in enumerate(prefixes):
        columns = []
        for name, rows in tables.items():
            missing = -len(rows) % shards
            padded = np.pad(rows, [(0, missing)] + [(0, 0)] * (rows.ndim - 1))
            columns.append(Column(name, shards, shard, padded[shard::shards]))
        row_files.write(prefix, columns)
    row_files.merge(prefixes, str(folder / "all"))
    return {
        name: StoredRows(str(folder / "all"), name, len(rows))
        for name, rows in tables.items()
    }


@pytest.mark.parametrize("shards", [1, 3, 4, 40])
def test_any_block_is_read_as_it_was_written(
    tmp_path: Path, shards: int
) -> None:
    rng = np.random.default_rng(shards)
    tables = {
        "codes": rng.integers(-128, 128, (101, 6)).astype(np.int8),
        "norms": rng.normal(size=101).astype(np.float32),
        "empty/rows": rng.normal(size=(1, 2)).astype(np.float32),
    }
    stored = write(tmp_path, shards, **tables)
    for name, rows in tables.items():
        found = stored[name]
        assert (found.shape, found.dtype) == (rows.shape, rows.dtype)
        for _ in range(30):
            start, stop = sorted(rng.integers(0, len(rows) + 1, 2))
            if start < stop:
                block = slice(int(start), int(stop))
                np.testing.assert_array_equal(found[block], rows[block])


def test_writers_write_slices_of_a_block_and_files_of_a_size(
    tmp_path: Path,
) -> None:
    rows = np.arange(400, dtype=np.float32).reshape(100, 4)
    write(tmp_path, 2, rows=rows)
    files = sorted(path.name for path in tmp_path.glob("all.data-*"))
    # Each writer has 800 bytes in blocks of 96, six of which fill a file.
    assert len(files) == 4
    sizes = [(tmp_path / name).stat().st_size for name in files]
    assert sizes == [576, 224, 576, 224]


def test_a_variable_is_written_as_an_array_is(tmp_path: Path) -> None:
    rows = np.arange(60, dtype=np.float32).reshape(30, 2)
    prefix = str(tmp_path / "one")
    row_files.write(prefix, [Column("v", 1, 0, tf.Variable(rows))])
    row_files.merge([prefix], str(tmp_path / "all"))
    found = StoredRows(str(tmp_path / "all"), "v")
    np.testing.assert_array_equal(found[slice(0, 30)], rows)
