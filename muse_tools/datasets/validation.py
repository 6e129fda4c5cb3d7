"""Rejects rows that cannot be used, with a reason, one batch at a time.

Everything here is a pure function of a record batch, or keeps nothing but
the keys seen so far, so that Beam, the readers and ``muse data inspect`` share
one set of rules. Every row read is accepted or rejected exactly once: the
first rule it breaks, in the order of `REASONS`, is its reason.
"""

from __future__ import annotations

import collections
import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from muse_tools.datasets import casting, feature_values, raw_tables
from muse_tools.datasets.arrow_lists import (
    Ints,
    Mask,
    find_sorted,
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
LABEL_NOT_BINARY = "label is not 0 or 1"
WRONG_WEIGHT = "weight is not a number from 0 on"
FUTURE = "time in the future"
VECTOR_LENGTH = "vector of another length"
NOT_FINITE = "number that is not finite"
UNEQUAL_LISTS = "lists of a history of unequal length"
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
    LABEL_NOT_BINARY,
    WRONG_WEIGHT,
    FUTURE,
    VECTOR_LENGTH,
    NOT_FINITE,
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

_TOLERANCE_S = 86_400

_HINTS = {
    NULL: "fill in ids, labels and lists; only features may be null.",
    MISSING_ID: (
        "0 means missing: where ids were numbered from 0 (pd.factorize), add "
        "1 to them in every table and list that holds them."
    ),
    LABEL_NOT_ONE_HOT: (
        "make the label [1, 0] where the item was not clicked and [0, 1] "
        "where it was, that is [1 - c, c] for a click c."
    ),
    LABEL_NOT_BINARY: (
        "make the label 1 where the item was clicked, else 0; or declare "
        "at_least for scores."
    ),
    WRONG_WEIGHT: (
        "write the weight of each impression as a number from 0 on, or leave "
        "weight out of the declaration."
    ),
    FUTURE: (
        "write times as timestamps or whole seconds since 1970, not as "
        "milliseconds; events that have not happened belong elsewhere."
    ),
    VECTOR_LENGTH: (
        "write as many numbers as dim declares, or none where there is no "
        "vector."
    ),
    NOT_FINITE: (
        "write a number, or null where it is not known; a vector has all of "
        "its numbers or is null."
    ),
    UNEQUAL_LISTS: (
        "write one value of each feature per behavior, 0 where it is unknown."
    ),
    EMBEDDING_LENGTH: (
        f"write vectors of {raw_tables.EMBEDDING_DIM} numbers: fill shorter "
        "ones up with zeros, which changes no cosine, and project longer ones "
        "first, such as by a PCA. Or, if there is a table search_events to "
        "learn from, write them as they are into item_content, as "
        "NAME_vector, and run the pipeline with item_embeddings: learned."
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


Broken = tuple[str, Mask]
"""A reason, and the rows (N,) that it holds for."""


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


def share(part: int, whole: int) -> float | None:
    """Returns a share for people; None of nothing."""
    return round(part / whole, 6) if whole else None


def split_rows(batch: pa.RecordBatch, broken: Sequence[Broken]) -> Validated:
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


def rows_with_nulls(batch: pa.RecordBatch, codes: Sequence[str]) -> Mask:
    """Rows with a null value, null list or null inside a list.

    A column that is not in the batch is not checked, here and below.
    """
    found = np.zeros(batch.num_rows, bool)
    for code in set(codes) & set(batch.schema.names):
        column = batch[code]
        found |= values_of(column.is_null())
        if casting.is_list(column.type):
            values = column.flatten()
            if values.null_count:
                parents = values_of(pc.list_parent_indices(column))
                found[parents[values_of(values.is_null())]] = True
    return found


def check_ids(
    batch: pa.RecordBatch, ids: Sequence[str], others: Sequence[str] = ()
) -> list[Broken]:
    """Returns the first two rules: no null anywhere, no id 0."""
    zero = np.zeros(batch.num_rows, bool)
    for code in set(ids) & set(batch.schema.names):
        zero |= values_of(pc.fill_null(batch[code], 1)) == 0
    return [
        (NULL, rows_with_nulls(batch, [*ids, *others])),
        (MISSING_ID, zero),
    ]


def _one_hot(label: pa.Array) -> Mask:
    good = list_lengths(label) == 2
    labels = label.filter(pa.array(good)).flatten()
    values = values_of(pc.fill_null(labels, -1)).reshape(-1, 2)
    good[good] = ((values == 0) | (values == 1)).all(1) & (
        values.sum(1, dtype=np.int64) == 1
    )
    return good


def clicks(
    batch: pa.RecordBatch, name: str = raw_tables.LABEL
) -> npt.NDArray[np.int8]:
    """Returns labels of accepted samples, int8 (N,), 1 for a click."""
    label = batch[name]
    if not casting.is_list(label.type):
        return values_of(label).astype(np.int8)
    return np.ascontiguousarray(list_values(label).reshape(-1, 2)[:, 1])


def _check_samples(batch: pa.RecordBatch) -> list[Broken]:
    found = []
    for field in filter(raw_tables.is_label, batch.schema):
        label = batch[field.name]
        if casting.is_list(label.type):
            found.append((LABEL_NOT_ONE_HOT, ~_one_hot(label)))
            continue
        values = values_of(pc.fill_null(label, 0))
        found.append((LABEL_NOT_BINARY, (values != 0) & (values != 1)))
    if raw_tables.WEIGHT in batch.schema.names:
        weights = values_of(pc.fill_null(batch[raw_tables.WEIGHT], np.nan))
        usable = np.isfinite(weights) & (weights >= 0)
        found.append((WRONG_WEIGHT, ~usable))
    return found + _check_times(batch)


def _check_times(batch: pa.RecordBatch) -> list[Broken]:
    if raw_tables.TIME not in batch.schema.names:
        return []
    seconds = values_of(pc.fill_null(batch[raw_tables.TIME], 0))
    return [(FUTURE, seconds > time.time() + _TOLERANCE_S)]


def _history(batch: pa.RecordBatch) -> list[str]:
    """Returns the lists of histories, items first."""
    return [n for n in batch.schema.names if n.startswith("behavior_")]


def _check_lists(batch: pa.RecordBatch) -> list[Broken]:
    """Histories of equal length; users of logs have none."""
    items, *others = (list_lengths(batch[n], -1) for n in _history(batch))
    unequal = np.zeros(batch.num_rows, bool)
    for lengths in others:
        unequal |= items != lengths
    return [(UNEQUAL_LISTS, unequal)]


def _check_codes(batch: pa.RecordBatch) -> list[Broken]:
    column, dim = batch[raw_tables.SCL_EMBEDDING], raw_tables.EMBEDDING_DIM
    fitting = list_lengths(column, -1) == dim
    kept = column.filter(pa.array(fitting))
    values = values_of(pc.fill_null(kept.flatten(), 0))
    zero = np.zeros(batch.num_rows, bool)
    zero[fitting] = ~values.reshape(-1, dim).any(axis=1)
    return [(EMBEDDING_LENGTH, ~fitting), (ZERO_VECTOR, zero)]


class _Rules(NamedTuple):
    """Keys of a table, other columns without null, prefixes of features."""

    ids: Sequence[str]
    others: Callable[[pa.RecordBatch], Sequence[str]] = lambda batch: ()
    check: Callable[[pa.RecordBatch], list[Broken]] = lambda batch: []
    features: tuple[str, ...] = ()


def _of_samples(batch: pa.RecordBatch) -> list[str]:
    labels = [f.name for f in filter(raw_tables.is_label, batch.schema)]
    return [*labels, *_of_logs(batch)]


def _of_logs(batch: pa.RecordBatch) -> list[str]:
    names = (raw_tables.TIME, raw_tables.KNOWN_TIME, raw_tables.REQUEST_ID)
    return [name for name in names if name in batch.schema.names]


_RULES = {
    "samples": _Rules(
        (raw_tables.USER_ID, raw_tables.ITEM_ID),
        _of_samples,
        _check_samples,
        ("context_", "candidate_"),
    ),
    "events": _Rules(
        (raw_tables.USER_ID, raw_tables.ITEM_ID),
        _of_logs,
        _check_times,
        ("behavior_",),
    ),
    "user_features": _Rules(
        (raw_tables.USER_ID,), _history, _check_lists, ("user_", "behavior_")
    ),
    raw_tables.ITEM_FEATURES: _Rules(
        (raw_tables.ITEM_ID,), features=("item_",)
    ),
    "embeddings": _Rules(
        (raw_tables.ITEM_ID,),
        lambda batch: (raw_tables.SCL_EMBEDDING,),
        _check_codes,
    ),
}
_RULES |= {
    raw_tables.EMBEDDINGS: _RULES["embeddings"],
    raw_tables.IMPRESSIONS: _RULES["samples"],
    raw_tables.USERS: _RULES["user_features"],
}


def validate(table: str, batch: pa.RecordBatch) -> Validated:
    """Checks a batch by the rules of its table; extra columns are kept.

    `table` may leave out the split. Samples: no null, no id 0, labels that are
    0 or 1, or one-hot, a weight from 0 on. User features: no null but in
    features of the user, no id 0, lists of equal length. Item features: an
    id. Embeddings: an id and 128 codes that are not all 0. Times: not in the
    future. Numbers and vectors: finite, of the declared length. Features that
    are null become missing (`feature_values.fill`).
    """
    rules = _RULES.get(table.removeprefix("train_").removeprefix("test_"))
    if rules is None:
        raise ValueError(
            f"table: expected one of {sorted(_RULES)}. Received: {table}"
        )
    others = rules.others(batch)
    broken = check_ids(batch, rules.ids, others)
    if others and {*others} <= {*batch.schema.names}:
        broken += rules.check(batch)
    features = [
        field
        for field in batch.schema
        if rules.features and field.name.startswith(rules.features)
    ]
    for field in features:
        of_length, finite = feature_values.usable(batch[field.name], field)
        broken += [(VECTOR_LENGTH, ~of_length), (NOT_FINITE, ~finite)]
    broken = [one for one in broken if one[1].any()]
    good, rejected = split_rows(batch, broken)
    for field in features:
        good = with_column(
            good, field.name, feature_values.fill(good[field.name], field)
        )
    return Validated(good, rejected)


class UniqueKeys:
    """Keeps the first row of every int64 key over all batches of a table.

    Holds eight bytes per key: sorted runs of growing size that are merged
    like a log-structured merge tree, hence O(log n) merges of each key.
    """

    def __init__(self, code: str, reason: str) -> None:
        self._code = code
        self._reason = reason
        self._runs: list[Ints] = []

    def __len__(self) -> int:
        return sum(len(run) for run in self._runs)

    def keys(self) -> Ints:
        """Returns all keys seen: int64, sorted, distinct."""
        return np.sort(np.concatenate([np.zeros(0, np.int64), *self._runs]))

    def check(self, batch: pa.RecordBatch) -> Validated:
        """Accepts the first row of a key, rejects repeated ones."""
        ids = values_of(batch[self._code])
        return split_rows(batch, [(self._reason, ~self.first(ids))])

    def first(self, ids: Ints) -> Mask:
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


def contains(sorted_keys: Ints, values: Ints) -> Mask:
    """Returns which values are among sorted keys."""
    return find_sorted(sorted_keys, values)[1]


def require_keys(
    batch: pa.RecordBatch, code: str, sorted_keys: Ints, reason: str
) -> Validated:
    """Rejects rows whose key is not known, e.g. items without features."""
    ids = values_of(batch[code])
    return split_rows(batch, [(reason, ~contains(sorted_keys, ids))])


def strip_padding(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Removes padding (item id 0) from the lists of accepted users.

    All lists lose the same positions, whichever side the padding is on, so
    they stay aligned and in order.
    """
    items = batch[raw_tables.BEHAVIOR_ITEM_IDS]
    real = list_values(items) != 0
    if real.all():
        return batch
    offsets = np.r_[0, np.cumsum(real)][list_offsets(items)]
    for name in _history(batch):
        kept = list_values(batch[name])[real]
        kind = batch[name].type.value_type
        batch = with_column(batch, name, list_array(kept, offsets, kind))
    return batch
