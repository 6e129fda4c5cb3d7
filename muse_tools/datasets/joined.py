"""The published joined form, and its conversion into raw tables.

``train/train-shard-NNNNNN.parquet`` and ``test/test-shard-NNNNNN.parquet``
hold one row per impression with all features of user and item repeated;
``feature_map/*.npy`` holds the distinct ids of most fields and the item
vectors. The pipeline reads raw tables, where every history is stored once, so
the joined form is converted, streaming.
"""

from __future__ import annotations

import collections
import dataclasses
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from muse_tools.datasets import dataset_dir, raw_tables, validation
from muse_tools.datasets.arrow_lists import (
    list_array,
    list_offsets,
    list_values,
    values_of,
)
from muse_tools.datasets.errors import DataError

__all__ = [
    "IMPORT_VERSION",
    "JOINED_SCHEMA",
    "FeatureMap",
    "JoinedShards",
    "import_joined",
]

IMPORT_VERSION = 1

EMBEDDING_KEYS = "scl_emb_int8_p90_keys.npy"
EMBEDDING_VALUES = "scl_emb_int8_p90_values.npy"

_SAMPLES = raw_tables.SCHEMAS[raw_tables.TRAIN_SAMPLES]
_USERS = raw_tables.SCHEMAS[raw_tables.TRAIN_USER_FEATURES]
_ITEMS = raw_tables.SCHEMAS[raw_tables.ITEM_FEATURES]
_EMBEDDINGS = raw_tables.SCHEMAS[raw_tables.EMBEDDINGS]

JOINED_SCHEMA = pa.schema(
    [
        *_SAMPLES,
        *(f for f in _USERS if f.name not in _SAMPLES.names),
        *(f for f in _ITEMS if f.name not in _SAMPLES.names),
    ]
)
"""The 13 columns of a joined shard."""

Progress = Callable[[str, float], None]
"""Called with a stage's name and the share of all rows read (0 to 1)."""

_VECTORS_PER_BATCH = 1 << 16


@dataclasses.dataclass(frozen=True)
class JoinedShards:
    """Joined shards found in a directory.

    Attributes:
        root: The directory.
        splits: ``train`` and ``test`` to their table, only those found.
    """

    root: pathlib.Path
    splits: Mapping[str, raw_tables.RawTable]

    @classmethod
    def open(cls, directory: str | os.PathLike[str]) -> JoinedShards:
        """Finds ``SPLIT/SPLIT-shard-*.parquet``.

        Raises:
            DataError: ``NO_TABLES`` if there is no shard of any split.
        """
        root = pathlib.Path(directory)
        splits = {}
        for split in raw_tables.SPLITS:
            paths = tuple(
                sorted((root / split).glob(f"{split}-shard-*.parquet"))
            )
            if paths:
                splits[split] = raw_tables.RawTable(
                    f"{split} shards", paths, JOINED_SCHEMA
                )
        if not splits:
            raise DataError(
                "NO_TABLES",
                f"{root} holds no joined shards. Expected: "
                f"{root / 'train' / 'train-shard-000000.parquet'} and so on.",
                "give the directory that holds train/, test/ and feature_map/.",
            )
        return cls(root, splits)


class FeatureMap:
    """``feature_map/*.npy``: distinct ids of fields and item vectors.

    Nothing is assumed about order or uniqueness: the published keys of the
    vectors are sorted only block by block and hold one key twice, and field
    ``206`` has no map at all.

    Args:
        directory: The ``feature_map`` directory.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        """Checks that the directory is there; reads nothing."""
        self.root = pathlib.Path(directory)
        if not self.root.is_dir():
            raise DataError(
                "NO_DIRECTORY",
                f"{self.root} is not a directory.",
                "give the feature_map directory of the published data.",
            )

    def ids(self, code: str) -> npt.NDArray[np.int64] | None:
        """Returns the distinct ids of a field.

        Args:
            code: Column code, e.g. ``205``.

        Returns:
            int64, sorted, distinct; None where the field has no map (its
            ids then have to come from the tables). ``150_2_180`` falls back
            to its ``_p90`` map.
        """
        for name in (f"{code}_sorted_map", f"{code}_sorted_map_p90"):
            path = self.root / f"{name}.npy"
            if path.is_file():
                ids = self._load(path)
                if ids.ndim != 1 or ids.dtype != np.int64:
                    raise _wrong_array(path, "int64 [N]", ids)
                if len(ids) < 2 or bool((ids[1:] > ids[:-1]).all()):
                    return ids
                return np.unique(ids)
        return None

    def has_embeddings(self) -> bool:
        """Tells whether keys and values of the item vectors are there."""
        return (self.root / EMBEDDING_KEYS).is_file() and (
            self.root / EMBEDDING_VALUES
        ).is_file()

    def embeddings(
        self,
    ) -> tuple[
        npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int8]
    ]:
        """Returns the item vectors by sorted key, one row per key.

        Returns:
            (keys, rows, values): int64 (N,) sorted and distinct, int64 (N,)
            row of each key in `values` (the first one where a key occurs
            twice), and the memory-mapped int8 (M, 128) values as published.

        Raises:
            DataError: ``MISSING_FILE``, ``WRONG_ARRAY`` or
                ``UNREADABLE_FILE``.
        """
        keys = self._load(self.root / EMBEDDING_KEYS)
        values = self._load(self.root / EMBEDDING_VALUES)
        if keys.ndim != 1 or keys.dtype != np.int64:
            raise _wrong_array(self.root / EMBEDDING_KEYS, "int64 [N]", keys)
        shape = (len(keys), raw_tables.EMBEDDING_DIM)
        if values.shape != shape or values.dtype != np.int8:
            raise _wrong_array(
                self.root / EMBEDDING_VALUES,
                f"int8 [{shape[0]}, {shape[1]}]",
                values,
            )
        sorted_keys, rows = np.unique(keys, return_index=True)
        return sorted_keys, rows, values

    def iter_embeddings(self) -> Iterator[tuple[pa.RecordBatch, int]]:
        """Streams the vectors as rows of the raw embeddings table.

        Yields:
            Rows in the order of the file, without repeated keys; and how
            many rows the batch had with them.
        """
        _, rows, values = self.embeddings()
        keys = self._load(self.root / EMBEDDING_KEYS)
        keep = np.zeros(len(keys), bool)
        keep[rows] = True
        for begin in range(0, len(keys), _VECTORS_PER_BATCH):
            part = slice(begin, begin + _VECTORS_PER_BATCH)
            codes = values[part][keep[part]]
            batch = pa.RecordBatch.from_arrays(
                [
                    pa.array(keys[part][keep[part]]),
                    list_array(
                        codes.reshape(-1),
                        np.arange(len(codes) + 1) * codes.shape[1],
                        pa.int8(),
                    ),
                ],
                schema=_EMBEDDINGS,
            )
            yield batch, len(keep[part])

    def _load(self, path: pathlib.Path) -> npt.NDArray[Any]:
        if not path.is_file():
            raise DataError(
                "MISSING_FILE",
                f"{path} is not there.",
                "download it, or leave out what needs it.",
            )
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except (ValueError, OSError, EOFError) as error:
            raise DataError(
                "UNREADABLE_FILE",
                f"{path} is not a complete .npy file: {error}.",
                "the file was cut off or damaged; copy or download it again.",
            ) from error


def _wrong_array(
    path: pathlib.Path, expected: str, received: npt.NDArray[Any]
) -> DataError:
    return DataError(
        "WRONG_ARRAY",
        f"{path}: expected {expected}. Received: {received.dtype} "
        f"{list(received.shape)}.",
        "write the array again with this type and shape; vectors of floats as "
        "trunc(127 * v / |v|), never by a cast.",
    )


def _select(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    columns = [
        batch.column(batch.schema.get_field_index(name))
        for name in schema.names
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _fingerprints(batch: pa.RecordBatch) -> npt.NDArray[np.uint64]:
    """Hashes the user columns of each row: equal rows, equal hashes.

    A user whose rows differ has several of them, so that keeping the first
    row only does not go unnoticed.
    """
    found = np.zeros(batch.num_rows, np.uint64)
    multiplier = np.uint64(0x9E3779B97F4A7C15)
    for name in _USERS.names:
        column = batch.column(batch.schema.get_field_index(name))
        if pa.types.is_list(column.type):
            values = list_values(column).astype(np.int64).view(np.uint64)
            offsets = list_offsets(column)
            position = np.arange(len(values)) - np.repeat(
                offsets[:-1], np.diff(offsets)
            )
            mixed = (values ^ (values >> np.uint64(31))) * (
                position.astype(np.uint64) * np.uint64(2) + np.uint64(1)
            )
            sums = np.r_[np.uint64(0), np.cumsum(mixed, dtype=np.uint64)]
            column_hash = sums[offsets[1:]] - sums[offsets[:-1]]
        else:
            ids = values_of(column)
            column_hash = ids.view(np.uint64)
        found = (found ^ column_hash) * multiplier
    return found


def import_joined(
    directory: str | os.PathLike[str],
    out: str | os.PathLike[str],
    progress: Progress | None = None,
) -> tuple[dict[str, Any], bool]:
    """Turns joined shards and feature maps into raw tables, streaming.

    Of each user (per split) and item the first row is kept; padding (item id
    0) is removed from histories; rows that break a rule of
    `muse_tools.datasets.validation` go to ``rejected/`` with their reason.
    Memory holds the distinct ids and one batch.

    Args:
        directory: Holds ``train/``, ``test/`` and ``feature_map/``.
        out: Output directory; gets ``raw/*.parquet``,
            ``rejected/*.parquet`` and ``dataset.json``.
        progress: Called as the work goes on.

    Returns:
        The content of ``dataset.json``, and whether it was there already.

    Raises:
        DataError: Missing or unusable input, or ``OUTPUT_EXISTS``.
    """
    shards = JoinedShards.open(directory)
    feature_map = FeatureMap(shards.root / "feature_map")
    if not feature_map.has_embeddings():
        raise DataError(
            "MISSING_FILE",
            f"{feature_map.root} holds no {EMBEDDING_KEYS} and "
            f"{EMBEDDING_VALUES}.",
            "download both; the item vectors are only there.",
        )
    paths = [p for t in shards.splits.values() for p in t.paths]
    parameters = {
        "source": str(shards.root.resolve()),
        "shards": {
            str(p.relative_to(shards.root)): p.stat().st_size for p in paths
        },
    }
    found = dataset_dir.reusable(out, parameters, IMPORT_VERSION)
    if found is not None:
        return found, True
    for table in shards.splits.values():
        table.check()
    description: dict[str, Any] = {
        "name": "imported-joined-shards",
        "generator_version": IMPORT_VERSION,
        "parameters": parameters,
    }
    with dataset_dir.staged(out, description) as staging:
        counts = _import(
            shards, feature_map, staging, progress or (lambda stage, done: None)
        )
        description["counts"] = counts
    return description, False


def _import(
    shards: JoinedShards,
    feature_map: FeatureMap,
    staging: pathlib.Path,
    tell: Progress,
) -> dict[str, Any]:
    raw = staging / "raw"
    rejected_dir = staging / "rejected"
    counts: dict[str, Any] = {}
    total = sum(t.num_rows() for t in shards.splits.values())
    done = 0
    items_seen = validation.UniqueKeys(
        raw_tables.ITEM_ID, validation.DUPLICATE_ITEM
    )
    item_path = raw / f"{raw_tables.ITEM_FEATURES}.parquet"
    with raw_tables.TableWriter(item_path, _ITEMS) as item_writer:
        for split, table in shards.splits.items():
            users_seen = validation.UniqueKeys(
                raw_tables.USER_ID, validation.DUPLICATE_USER
            )
            versions = validation.UniqueKeys("fingerprint", "seen")
            reasons: collections.Counter[str] = collections.Counter()
            read = removed = 0
            with (
                raw_tables.TableWriter(
                    raw / f"{split}_samples.parquet", _SAMPLES
                ) as sample_writer,
                raw_tables.TableWriter(
                    raw / f"{split}_user_features.parquet", _USERS
                ) as user_writer,
                raw_tables.TableWriter(
                    rejected_dir / f"{split}_shards.parquet",
                    JOINED_SCHEMA.append(
                        pa.field(validation.REASON_COLUMN, pa.string())
                    ),
                ) as rejected_writer,
            ):
                for batch in table.iter_batches():
                    read += batch.num_rows
                    good = batch
                    for check in (
                        validation.validate_samples,
                        validation.validate_user_features,
                        validation.validate_item_features,
                    ):
                        good, rejected = check(good)
                        reasons.update(
                            validation.Validated(good, rejected).counts
                        )
                        rejected_writer.write(rejected)
                    sample_writer.write(_select(good, _SAMPLES))
                    users = _select(good, _USERS)
                    versions.first(_fingerprints(users).view(np.int64))
                    fresh = users_seen.check(users).good
                    stripped = validation.strip_padding(fresh)
                    removed += _behaviors(fresh) - _behaviors(stripped)
                    user_writer.write(stripped)
                    item_writer.write(
                        items_seen.check(_select(good, _ITEMS)).good
                    )
                    done += batch.num_rows
                    tell(f"reading {split} shards", 0.9 * done / total)
            counts[split] = {
                "read": read,
                "accepted": sample_writer.rows,
                "rejected": dict(sorted(reasons.items())),
                "users": user_writer.rows,
                "other_versions_of_users": len(versions) - len(users_seen),
                "padding_removed": removed,
            }
            if not sample_writer.rows:
                raise DataError(
                    "NO_USABLE_ROWS",
                    f"{split} shards: all {read:,} rows are rejected: "
                    f"{dict(reasons)}.",
                    validation.hint_for(reasons),
                )
    counts["items"] = item_writer.rows
    vectors = 0
    path = raw / f"{raw_tables.EMBEDDINGS}.parquet"
    with raw_tables.TableWriter(path, _EMBEDDINGS) as writer:
        for rows, read in feature_map.iter_embeddings():
            vectors += read
            writer.write(rows)
    counts["embeddings"] = {
        "read": vectors,
        "accepted": writer.rows,
        "rejected": {validation.DUPLICATE_ITEM: vectors - writer.rows}
        if vectors > writer.rows
        else {},
    }
    tell("done", 1.0)
    return counts


def _behaviors(users: pa.RecordBatch) -> int:
    index = users.schema.get_field_index(raw_tables.BEHAVIOR_ITEM_IDS)
    return int(list_offsets(users.column(index))[-1])
