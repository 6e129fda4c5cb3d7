"""Rejects rows that cannot be used, with a reason, one batch at a time.

Functions keep no state, and `UniqueKeys` keeps only the keys seen so far, so
that Beam, the readers and ``muse data inspect`` can share one set of rules.
Every row is accepted or rejected exactly once; its reason is the first rule
that it breaks, in the order of `REASONS`.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from muse_tools.datasets import casting, feature_values, raw_tables, row_rules
from muse_tools.datasets.arrow_lists import (
    Ints,
    Mask,
    find_sorted,
    list_array,
    list_offsets,
    list_values,
    values_of,
    with_column,
)
from muse_tools.datasets.errors import DataError
from muse_tools.datasets.reasons import (  # noqa: F401
    DATE_NUMBER,
    DUPLICATE_ITEM,
    DUPLICATE_USER,
    EMBEDDING_LENGTH,
    FUTURE,
    LABEL_NOT_BINARY,
    LABEL_NOT_ONE_HOT,
    MISSING_ID,
    NO_ITEM_FEATURES,
    NO_USER_FEATURES,
    NOT_FINITE,
    NULL,
    REASONS,
    UNEQUAL_LISTS,
    VECTOR_LENGTH,
    WRONG_DIMENSION,
    WRONG_WEIGHT,
    ZERO_VECTOR,
    hint_for,
)
from muse_tools.datasets.row_rules import Broken, check_ids  # noqa: F401

REASON_COLUMN = "reason"


class Validated(NamedTuple):
    """The parts of a batch; rejected rows have a column ``reason``."""

    good: pa.RecordBatch
    rejected: pa.RecordBatch

    @property
    def counts(self) -> dict[str, int]:
        """Number of rejected rows by reason."""
        return collections.Counter(self.rejected[REASON_COLUMN].to_pylist())


@dataclasses.dataclass
class RowCounts:
    """How many rows were read, accepted and, by reason, rejected."""

    read: int = 0
    accepted: int = 0
    rejected: collections.Counter[str] = dataclasses.field(
        default_factory=collections.Counter
    )

    def add(self, *steps: Validated) -> pa.RecordBatch:
        """Counts a batch after one or more steps; returns its good rows."""
        self.read += steps[0].good.num_rows + steps[0].rejected.num_rows
        for step in steps:
            self.rejected.update(step.counts)
        self.accepted += steps[-1].good.num_rows
        return steps[-1].good

    def to_dict(self) -> dict[str, Any]:
        """Returns the counts as JSON values."""
        return {
            "read": self.read,
            "accepted": self.accepted,
            "rejected": dict(sorted(self.rejected.items())),
        }

    def check_usable(self, table: str, received: str = "") -> None:
        """Raises `DataError` ``NO_USABLE_ROWS`` if all rows were rejected."""
        if self.read and not self.accepted:
            reasons = ", ".join(
                f"{n:,} {why}" for why, n in self.rejected.items()
            )
            raise DataError(
                "NO_USABLE_ROWS",
                f"table {table}: all {self.read:,} rows are rejected: "
                f"{reasons}.{received}",
                hint_for(self.rejected),
            )


def share(part: int, whole: int) -> float | None:
    """Returns a rounded share; None if the whole is 0."""
    return round(part / whole, 6) if whole else None


def split_rows(batch: pa.RecordBatch, broken: Sequence[Broken]) -> Validated:
    """Splits a batch by masks (N,); a row gets the first matching reason."""
    number = np.full(batch.num_rows, -1)
    for i, one in enumerate(broken):
        number[one.rows & (number < 0)] = i
    bad = number >= 0
    names = np.array([one.reason for one in broken], object)
    rejected = batch.filter(pa.array(bad))
    return Validated(
        batch.filter(pa.array(~bad)) if bad.any() else batch,
        pa.RecordBatch.from_arrays(
            [*rejected.columns, pa.array(names[number[bad]], pa.string())],
            schema=rejected.schema.append(pa.field(REASON_COLUMN, pa.string())),
        ),
    )


def clicks(
    batch: pa.RecordBatch, name: str = raw_tables.LABEL
) -> npt.NDArray[np.int8]:
    """Returns a label of accepted samples, int8 (N,), 1 for a click."""
    label = batch[name]
    if not casting.is_list(label.type):
        return values_of(label).astype(np.int8)
    return np.ascontiguousarray(list_values(label).reshape(-1, 2)[:, 1])


def validate(table: str, batch: pa.RecordBatch) -> Validated:
    """Checks a batch by the rules of its table; extra columns are kept.

    `table` may omit the split. Samples need ids, labels that are 0 or 1 or
    one-hot, and weights that are not negative. Users need an id and lists of
    equal length, items an id, embeddings an id and 128 codes that are not all
    0. Times may not be in the future. Numbers are finite, vectors have the
    declared length. Only features may be null; they become missing
    (`feature_values.fill`).
    """
    good, rejected = split_rows(batch, row_rules.broken_rows(table, batch))
    for field in row_rules.features_of(table, good):
        filled = feature_values.fill(good[field.name], field)
        good = with_column(good, field.name, filled)
    return Validated(good, rejected)


class UniqueKeys:
    """Keeps the first row of every int64 key over all batches of a table.

    Memory holds eight bytes per key, in sorted runs of growing size that are
    merged like a log-structured merge tree: O(log n) merges per key.
    """

    def __init__(self, code: str, reason: str) -> None:
        self._code = code
        self._reason = reason
        self._runs: list[Ints] = []

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    def keys(self) -> Ints:
        """Returns the distinct keys seen so far, int64, sorted."""
        return np.sort(np.concatenate([np.zeros(0, np.int64), *self._runs]))

    def check(self, batch: pa.RecordBatch) -> Validated:
        """Accepts the first row of each key and rejects later ones."""
        ids = values_of(batch[self._code])
        return split_rows(batch, [Broken(self._reason, ~self.first(ids))])

    def first(self, ids: Ints) -> Mask:
        """Adds keys (N,); returns which occur for the first time, bool (N,)."""
        found = np.zeros(len(ids), bool)
        distinct, first = np.unique(ids, return_index=True)
        known = np.zeros(len(distinct), bool)
        for run in self._runs:
            known |= contains(run, distinct)
        found[first[~known]] = True
        run = distinct[~known]
        if len(run):
            while self._runs and len(self._runs[-1]) <= 2 * len(run):
                run = np.sort(
                    np.concatenate([self._runs.pop(), run]), kind="stable"
                )
            self._runs.append(run)
        return found


def contains(sorted_keys: Ints, values: Ints) -> Mask:
    """Returns which values are among sorted keys."""
    return find_sorted(sorted_keys, values)[1]


def require_keys(
    batch: pa.RecordBatch, code: str, sorted_keys: Ints, reason: str
) -> Validated:
    """Rejects rows whose key is not among the sorted keys."""
    ids = values_of(batch[code])
    return split_rows(batch, [Broken(reason, ~contains(sorted_keys, ids))])


def strip_padding(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Removes padding (item id 0) from the lists of accepted users.

    All lists of a user lose the same positions, so they stay aligned.
    """
    items = batch[raw_tables.BEHAVIOR_ITEM_IDS]
    real = list_values(items) != 0
    if real.all():
        return batch
    offsets = np.r_[0, np.cumsum(real)][list_offsets(items)]
    for name in row_rules.history(batch):
        kept = list_values(batch[name])[real]
        kind = batch[name].type.value_type
        batch = with_column(batch, name, list_array(kept, offsets, kind))
    return batch
