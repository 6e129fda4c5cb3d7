"""Rejects rows that cannot be used, with a reason, one batch at a time.

Everything here is a pure function of a record batch, or keeps nothing but
the keys seen so far, so that Beam, the readers and ``muse data inspect`` share
one set of rules. Every row read is accepted or rejected exactly once: the
first rule it breaks, in the order of `REASONS`, is its reason.
"""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from muse_tools.datasets import raw_tables
from muse_tools.datasets.arrow_lists import (
    list_array,
    list_lengths,
    list_offsets,
    list_values,
    values_of,
    with_column,
)
from muse_tools.datasets.errors import DataError

NULL = "null"
MISSING_ID = "id is 0 (missing)"
LABEL_NOT_ONE_HOT = "label not one-hot"
UNEQUAL_LISTS = "behavior and category lists of unequal length"
EMBEDDING_LENGTH = f"embedding length is not {raw_tables.EMBEDDING_DIM}"
ZERO_VECTOR = "zero vector"
DUPLICATE_USER = "duplicate user row"
DUPLICATE_ITEM = "duplicate item row"
NO_ITEM_FEATURES = "no item row"
NO_USER_FEATURES = "no user row"

REASONS = (
    NULL,
    MISSING_ID,
    LABEL_NOT_ONE_HOT,
    UNEQUAL_LISTS,
    EMBEDDING_LENGTH,
    ZERO_VECTOR,
    DUPLICATE_USER,
    DUPLICATE_ITEM,
    NO_ITEM_FEATURES,
    NO_USER_FEATURES,
)
"""Every reason, in order of precedence."""

WRONG_DIMENSION = "vector of another dimension"
"""Of a modality of the search tables."""

REASON_COLUMN = "reason"

_HINTS = {
    NULL: "fill in ids, labels and lists; only features may be null.",
    MISSING_ID: (
        "0 means missing: where ids were numbered from 0 (pd.factorize), add "
        "1 to them in every table and list that holds them."
    ),
    LABEL_NOT_ONE_HOT: (
        f"make {raw_tables.LABEL} [1, 0] where the item was not clicked and "
        "[0, 1] where it was, that is [1 - c, c] for a click c."
    ),
    UNEQUAL_LISTS: "write one category per behavior, 0 where it is unknown.",
    EMBEDDING_LENGTH: (
        f"write vectors of {raw_tables.EMBEDDING_DIM} numbers: fill shorter "
        "ones up with zeros, which changes no cosine, and project longer ones "
        "first, such as by a PCA. Or write them as they are into item_content, "
        "as NAME_vector, and run the pipeline with item_embeddings: learned."
    ),
    WRONG_DIMENSION: (
        "give the vectors of a modality one width, in item_content and in "
        "search_events, or leave out those of another."
    ),
    NO_ITEM_FEATURES: "add the items that were shown to item_features.",
    NO_USER_FEATURES: (
        "add the users of the impressions to the user features of the split."
    ),
    ZERO_VECTOR: (
        "make the vectors again; floats may be given as they are and become "
        "codes here, while a cast to int8 makes most of them 0."
    ),
}


def hint_for(rejected: Mapping[str, int]) -> str:
    """Returns what to do about the reason that most rows were rejected for."""
    reason = max(rejected, key=lambda name: rejected[name])
    return _HINTS.get(reason, f"mend or leave out the rows with: {reason}.")


_Mask = npt.NDArray[np.bool_]


class Validated(NamedTuple):
    """What became of a batch; rejected rows have a column ``reason``."""

    good: pa.RecordBatch
    rejected: pa.RecordBatch

    @property
    def counts(self) -> dict[str, int]:
        """Rejected rows by reason; they add up with the accepted ones."""
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
        """Counts a batch that went through one rule after the other."""
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
        """Raises `DataError` ``NO_USABLE_ROWS`` if all rows are rejected."""
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


def split_rows(
    batch: pa.RecordBatch, broken: Sequence[tuple[str, _Mask]]
) -> Validated:
    """Splits a batch by masks (N,); the first reason of a row is its reason."""
    number = np.full(batch.num_rows, -1)
    for i, (_, mask) in enumerate(broken):
        number[mask & (number < 0)] = i
    bad = number >= 0
    names = np.array([name for name, _ in broken], object)
    rejected = batch.filter(pa.array(bad))
    return Validated(
        batch.filter(pa.array(~bad)) if bad.any() else batch,
        pa.RecordBatch.from_arrays(
            [*rejected.columns, pa.array(names[number[bad]], pa.string())],
            schema=rejected.schema.append(pa.field(REASON_COLUMN, pa.string())),
        ),
    )


def rows_with_nulls(batch: pa.RecordBatch, codes: Sequence[str]) -> _Mask:
    """Rows with a null value, null list or null inside a list.

    A column that is not in the batch is not checked, here and below.
    """
    found = np.zeros(batch.num_rows, bool)
    for code in set(codes) & set(batch.schema.names):
        column = batch[code]
        found |= values_of(column.is_null())
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            values = column.flatten()
            if values.null_count:
                parents = values_of(pc.list_parent_indices(column))
                found[parents[values_of(values.is_null())]] = True
    return found


def check_ids(
    batch: pa.RecordBatch, ids: Sequence[str], others: Sequence[str] = ()
) -> list[tuple[str, _Mask]]:
    """Returns the first two rules: no null anywhere, no id 0."""
    zero = np.zeros(batch.num_rows, bool)
    for code in set(ids) & set(batch.schema.names):
        zero |= values_of(pc.fill_null(batch[code], 1)) == 0
    return [
        (NULL, rows_with_nulls(batch, [*ids, *others])),
        (MISSING_ID, zero),
    ]


def _one_hot(label: pa.Array) -> _Mask:
    good = list_lengths(label) == 2
    labels = label.filter(pa.array(good)).flatten()
    values = values_of(pc.fill_null(labels, -1)).reshape(-1, 2)
    good[good] = ((values == 0) | (values == 1)).all(1) & (
        values.sum(1, dtype=np.int64) == 1
    )
    return good


def clicks(batch: pa.RecordBatch) -> npt.NDArray[np.int8]:
    """Returns the labels of accepted samples, int8 (N,), 1 for a click."""
    values = list_values(batch[raw_tables.LABEL])
    return np.ascontiguousarray(values.reshape(-1, 2)[:, 1])


def _check_samples(batch: pa.RecordBatch) -> Validated:
    ids = (raw_tables.USER_ID, raw_tables.ITEM_ID)
    broken = check_ids(batch, ids, (raw_tables.LABEL,))
    if raw_tables.LABEL in batch.schema.names:
        broken.append((LABEL_NOT_ONE_HOT, ~_one_hot(batch[raw_tables.LABEL])))
    return split_rows(batch, broken)


def _check_user_features(batch: pa.RecordBatch) -> Validated:
    lists = (raw_tables.BEHAVIOR_ITEM_IDS, raw_tables.BEHAVIOR_CATEGORY_IDS)
    broken = check_ids(batch, (raw_tables.USER_ID,), lists)
    if set(lists) <= set(batch.schema.names):
        items, categories = (list_lengths(batch[c], -1) for c in lists)
        broken.append((UNEQUAL_LISTS, items != categories))
    return _null_to_zero(split_rows(batch, broken), raw_tables.USER_PROFILE)


def _null_to_zero(found: Validated, codes: Sequence[str]) -> Validated:
    """Writes 0, which is missing, for nulls of features in accepted rows."""
    good = found.good
    for code in set(codes) & set(good.schema.names):
        if good[code].null_count:
            good = with_column(good, code, pc.fill_null(good[code], 0))
    return Validated(good, found.rejected)


def _check_item_features(batch: pa.RecordBatch) -> Validated:
    found = split_rows(batch, check_ids(batch, (raw_tables.ITEM_ID,)))
    codes = (
        raw_tables.ITEM_CATEGORY,
        raw_tables.ITEM_CITY,
        raw_tables.ITEM_PROVINCE,
    )
    return _null_to_zero(found, codes)


def _check_embeddings(batch: pa.RecordBatch) -> Validated:
    code, dim = raw_tables.SCL_EMBEDDING, raw_tables.EMBEDDING_DIM
    broken = check_ids(batch, (raw_tables.ITEM_ID,), (code,))
    if code in batch.schema.names:
        fitting = list_lengths(batch[code], -1) == dim
        kept = batch[code].filter(pa.array(fitting))
        values = values_of(pc.fill_null(kept.flatten(), 0))
        zero = np.zeros(batch.num_rows, bool)
        zero[fitting] = ~values.reshape(-1, dim).any(axis=1)
        broken += [(EMBEDDING_LENGTH, ~fitting), (ZERO_VECTOR, zero)]
    return split_rows(batch, broken)


_VALIDATORS: Mapping[str, Callable[[pa.RecordBatch], Validated]] = {
    "samples": _check_samples,
    "user_features": _check_user_features,
    "item_features": _check_item_features,
    "embeddings": _check_embeddings,
    raw_tables.TRAIN_SAMPLES: _check_samples,
    raw_tables.TEST_SAMPLES: _check_samples,
    raw_tables.TRAIN_USER_FEATURES: _check_user_features,
    raw_tables.TEST_USER_FEATURES: _check_user_features,
    raw_tables.EMBEDDINGS: _check_embeddings,
}


def validate(table: str, batch: pa.RecordBatch) -> Validated:
    """Checks a batch by the rules of its table; extra columns are kept.

    Samples: no null, no id 0, a label of two that is one-hot. User features:
    no null but in the profile, no id 0, lists of equal length. Item features:
    an id. Embeddings: an id and 128 codes that are not all 0. Features that
    are null become 0, which is missing.
    """
    if table not in _VALIDATORS:
        raise ValueError(
            f"table: expected one of {sorted(_VALIDATORS)}. Received: {table}"
        )
    return _VALIDATORS[table](batch)


class UniqueKeys:
    """Keeps the first row of every int64 key over all batches of a table.

    Holds eight bytes per key: sorted runs of growing size that are merged
    like a log-structured merge tree, hence O(log n) merges of each key.
    """

    def __init__(self, code: str, reason: str) -> None:
        self._code = code
        self._reason = reason
        self._runs: list[npt.NDArray[np.int64]] = []

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    def keys(self) -> npt.NDArray[np.int64]:
        """Returns all keys seen: int64, sorted, distinct."""
        return np.sort(np.concatenate([np.zeros(0, np.int64), *self._runs]))

    def check(self, batch: pa.RecordBatch) -> Validated:
        """Accepts the first row of a key, rejects repeated ones."""
        ids = values_of(batch[self._code])
        return split_rows(batch, [(self._reason, ~self.first(ids))])

    def first(self, ids: npt.NDArray[np.int64]) -> _Mask:
        """Adds keys and tells which occur for the first time over all calls."""
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


def contains(
    sorted_keys: npt.NDArray[np.int64], values: npt.NDArray[np.int64]
) -> _Mask:
    """Returns which values are among sorted keys."""
    if not len(sorted_keys):
        return np.zeros(np.shape(values), bool)
    at = np.searchsorted(sorted_keys, values)
    at = np.minimum(at, len(sorted_keys) - 1)
    return sorted_keys[at] == values


def require_keys(
    batch: pa.RecordBatch,
    code: str,
    sorted_keys: npt.NDArray[np.int64],
    reason: str,
) -> Validated:
    """Rejects rows whose key is not known, e.g. items without features."""
    ids = values_of(batch[code])
    return split_rows(batch, [(reason, ~contains(sorted_keys, ids))])


def strip_padding(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Removes padding (item id 0) from both lists of accepted users.

    Both lists lose the same positions, whichever side the padding is on, so
    they stay aligned and in order.
    """
    lists = (raw_tables.BEHAVIOR_ITEM_IDS, raw_tables.BEHAVIOR_CATEGORY_IDS)
    items = batch[lists[0]]
    real = list_values(items) != 0
    if real.all():
        return batch
    offsets = np.r_[0, np.cumsum(real)][list_offsets(items)]
    for code in lists:
        kept = list_values(batch[code])[real]
        batch = with_column(batch, code, list_array(kept, offsets, pa.int64()))
    return batch
