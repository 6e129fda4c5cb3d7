"""Converts the published joined form into raw tables.

``train/train-shard-NNNNNN.parquet`` and ``test/test-shard-NNNNNN.parquet``
hold one row per impression, in which all features of the user and the item are
repeated; ``feature_map/*.npy`` holds the distinct ids of most fields and the
item vectors. The pipeline reads raw tables, which store every history once.
"""

from __future__ import annotations

import contextlib
import functools
import os
import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from muse_tools.datasets import (
    dataset_dir,
    fingerprints,
    raw_rows,
    raw_tables,
    table_writer,
    validation,
)
from muse_tools.datasets.arrow_lists import (
    list_offsets,
    list_values,
    ranges,
    values_of,
)
from muse_tools.datasets.dataset_dir import Progress
from muse_tools.datasets.errors import DataError
from muse_tools.datasets.parquet_files import find_files

IMPORT_VERSION = 2

EMBEDDING_KEYS = "scl_emb_int8_p90_keys.npy"
EMBEDDING_VALUES = "scl_emb_int8_p90_values.npy"

_SCHEMAS = raw_tables.schemas(raw_rows.TAOBAO_MM)
_SAMPLES = _SCHEMAS[raw_tables.TRAIN_SAMPLES]
_USERS = _SCHEMAS[raw_tables.TRAIN_USER_FEATURES]
_ITEMS = _SCHEMAS[raw_tables.ITEM_FEATURES]
_EMBEDDINGS = _SCHEMAS[raw_tables.EMBEDDINGS]

JOINED_SCHEMA = pa.schema(
    [
        *_SAMPLES,
        *(f for f in _USERS if f.name not in _SAMPLES.names),
        *(f for f in _ITEMS if f.name not in _SAMPLES.names),
    ]
)
"""The 13 columns of a joined shard."""

_VECTORS_PER_BATCH = 1 << 16
_DIGESTS = "input_digests.json"


def find_shards(root: pathlib.Path) -> dict[str, raw_tables.RawTable]:
    """Returns the shards ``SPLIT/SPLIT-shard-*`` by split."""
    found = {
        split: find_files(root / split, f"{split}-shard")
        for split in raw_tables.SPLITS
    }
    if not any(found.values()):
        raise DataError(
            "NO_TABLES",
            f"{root} holds no joined shards. Expected: "
            f"{root / 'train' / 'train-shard-000000.parquet'} and so on.",
            "give the directory that holds train/, test/ and feature_map/.",
        )
    return {
        split: raw_tables.RawTable(f"{split} shards", paths, JOINED_SCHEMA)
        for split, paths in found.items()
        if paths
    }


def iter_vectors(folder: pathlib.Path) -> Iterator[pa.RecordBatch]:
    """Streams the item vectors as rows of the raw embeddings table.

    The published keys are sorted only block by block and hold one key twice.
    """
    keys = _load(folder / EMBEDDING_KEYS, np.int64, (None,))
    shape = (len(keys), raw_tables.EMBEDDING_DIM)
    values = _load(folder / EMBEDDING_VALUES, np.int8, shape)
    for begin in range(0, len(keys), _VECTORS_PER_BATCH):
        part = slice(begin, begin + _VECTORS_PER_BATCH)
        yield raw_rows.vector_rows(keys[part], values[part])


def _load(
    path: pathlib.Path, dtype: type, shape: tuple[int | None, ...]
) -> npt.NDArray[Any]:
    """Memory-maps an array and checks it; None allows any size of an axis."""
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise DataError(
            "UNREADABLE_FILE",
            f"{path} is not a complete .npy file: {error}.",
            "the file was cut off or damaged; copy or download it again.",
        ) from error
    if (
        found.dtype != dtype
        or found.ndim != len(shape)
        or any(
            n not in (None, m) for n, m in zip(shape, found.shape, strict=True)
        )
    ):
        sizes = ", ".join("N" if n is None else str(n) for n in shape)
        raise DataError(
            "WRONG_ARRAY",
            f"{path}: expected {np.dtype(dtype)} [{sizes}]. Received: "
            f"{found.dtype} {list(found.shape)}.",
            "write the array again with this type and shape; vectors of "
            "floats as trunc(127 * v / |v|), never by a cast.",
        )
    return found


def _fingerprints(batch: pa.RecordBatch) -> npt.NDArray[np.uint64]:
    """Hashes the user columns of each row, uint64 (N,).

    A user whose rows differ has several hashes, which are counted, because only
    the first row is kept.
    """
    found = np.zeros(batch.num_rows, np.uint64)
    multiplier = np.uint64(0x9E3779B97F4A7C15)
    for name in _USERS.names:
        column = batch[name]
        if pa.types.is_list(column.type):
            values = list_values(column).astype(np.int64).view(np.uint64)
            offsets = list_offsets(column)
            lengths = np.diff(offsets)
            position = ranges(np.zeros_like(lengths), lengths)
            mixed = (values ^ (values >> np.uint64(31))) * (
                position.astype(np.uint64) * np.uint64(2) + np.uint64(1)
            )
            sums = np.r_[np.uint64(0), np.cumsum(mixed, dtype=np.uint64)]
            column_hash = sums[offsets[1:]] - sums[offsets[:-1]]
        else:
            column_hash = values_of(column).view(np.uint64)
        found = (found ^ column_hash) * multiplier
    return found


def import_joined(
    directory: str | os.PathLike[str],
    out: str | os.PathLike[str],
    progress: Progress | None = None,
) -> tuple[dict[str, Any], bool]:
    """Converts joined shards and feature maps into raw tables, streaming.

    The first row of each user (per split) and of each item is kept. Padding
    (item id 0) is removed from histories. Rows that break a rule of
    `muse_tools.datasets.validation` go to ``rejected/`` with their reason.
    Memory holds the distinct ids and one batch. Unchanged input, as told by the
    digests in ``input_digests.json``, is not converted again.
    """
    root = pathlib.Path(directory)
    shards = find_shards(root)
    maps = root / "feature_map"
    paths = [maps / EMBEDDING_KEYS, maps / EMBEDDING_VALUES]
    if not all(path.is_file() for path in paths):
        raise DataError(
            "MISSING_FILE",
            f"{maps} holds no {EMBEDDING_KEYS} and {EMBEDDING_VALUES}.",
            "download both; the published item vectors are only there.",
        )
    paths += [path for table in shards.values() for path in table.paths]
    digests = fingerprints.FileDigests(pathlib.Path(out) / _DIGESTS)
    names = (path.relative_to(root).as_posix() for path in paths)
    made = dataset_dir.make(
        out,
        "imported-joined-shards",
        IMPORT_VERSION,
        {
            "source": str(root.resolve()),
            "files": dict(zip(names, digests.of(paths), strict=True)),
        },
        functools.partial(_import, shards, maps),
        progress,
    )
    digests.save()
    return made


def _import(
    shards: Mapping[str, raw_tables.RawTable],
    maps: pathlib.Path,
    staging: pathlib.Path,
    description: dict[str, Any],
    tell: Progress,
) -> None:
    for table in shards.values():
        table.check()
    raw = staging / "raw"
    counts: dict[str, Any] = {}
    total = sum(t.num_rows() for t in shards.values())
    done = 0
    items_seen = validation.UniqueKeys(
        raw_tables.ITEM_ID, validation.DUPLICATE_ITEM
    )
    rejected_schema = JOINED_SCHEMA.append(
        pa.field(validation.REASON_COLUMN, pa.string())
    )
    item_path = raw / f"{raw_tables.ITEM_FEATURES}.parquet"
    with table_writer.TableWriter(item_path, _ITEMS) as item_writer:
        for split, table in shards.items():
            users_seen = validation.UniqueKeys(
                raw_tables.USER_ID, validation.DUPLICATE_USER
            )
            versions = validation.UniqueKeys("fingerprint", "seen")
            rows = validation.RowCounts()
            removed = 0
            with contextlib.ExitStack() as stack:
                sample_writer, user_writer, rejected_writer = (
                    stack.enter_context(table_writer.TableWriter(path, schema))
                    for path, schema in (
                        (raw / f"{split}_samples.parquet", _SAMPLES),
                        (raw / f"{split}_user_features.parquet", _USERS),
                        (
                            staging / "rejected" / f"{split}_shards.parquet",
                            rejected_schema,
                        ),
                    )
                )
                for batch in table.iter_batches():
                    steps = []
                    good = batch
                    for kind in ("samples", "user_features", "item_features"):
                        steps.append(validation.validate(kind, good))
                        good = steps[-1].good
                        rejected_writer.write(steps[-1].rejected)
                    rows.add(*steps)
                    sample_writer.write(good)
                    users = raw_tables.conform(good, _USERS)
                    versions.first(_fingerprints(users).view(np.int64))
                    fresh = users_seen.check(users).good
                    stripped = validation.strip_padding(fresh)
                    removed += _behaviors(fresh) - _behaviors(stripped)
                    user_writer.write(stripped)
                    item_writer.write(items_seen.check(good).good)
                    done += batch.num_rows
                    tell(f"reading {split} shards", 0.9 * done / total)
            counts[split] = {
                **rows.to_dict(),
                "users": user_writer.rows,
                "other_versions_of_users": len(versions) - len(users_seen),
                "padding_removed": removed,
            }
            rows.check_usable(f"{split} shards")
    counts["items"] = item_writer.rows
    rows = validation.RowCounts()
    unique = validation.UniqueKeys(
        raw_tables.ITEM_ID, validation.DUPLICATE_ITEM
    )
    name = f"{raw_tables.EMBEDDINGS}.parquet"
    with (
        table_writer.TableWriter(raw / name, _EMBEDDINGS) as writer,
        table_writer.TableWriter(
            staging / "rejected" / name,
            _EMBEDDINGS.append(rejected_schema.field(validation.REASON_COLUMN)),
        ) as rejected_writer,
    ):
        for batch in iter_vectors(maps):
            step = validation.validate(raw_tables.EMBEDDINGS, batch)
            steps = [step, unique.check(step.good)]
            writer.write(rows.add(*steps))
            for step in steps:
                rejected_writer.write(step.rejected)
    rows.check_usable(raw_tables.EMBEDDINGS)
    counts["embeddings"] = rows.to_dict()
    description["counts"] = counts


def _behaviors(users: pa.RecordBatch) -> int:
    return len(list_values(users[raw_tables.BEHAVIOR_ITEM_IDS]))
