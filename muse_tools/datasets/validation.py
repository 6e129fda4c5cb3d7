"""Rejects rows that cannot be used, with a reason, one batch at a time.

Everything here is a pure function of a record batch, or keeps nothing but
the keys seen so far, so that Beam, the readers and ``muse data inspect`` share
one set of rules. Every row read is accepted or rejected exactly once: the
first rule it breaks, in the order of `REASONS`, is its reason.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from muse_tools.datasets import raw_tables
from muse_tools.datasets.arrow_lists import (
    list_array,
    list_offsets,
    list_values,
    values_of,
)

NULL = "null"
MISSING_ID = "id is 0 (missing)"
LABEL_NOT_ONE_HOT = "label not one-hot"
UNEQUAL_LISTS = "behaviour and category lists of unequal length"
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
    UNEQUAL_LISTS: "write one category per behaviour, 0 where it is unknown.",
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
    """Returns what to do about the reason that most rows were rejected for.

    Args:
        rejected: Rejected rows by reason, at least one.
    """
    reason = max(rejected, key=lambda name: rejected[name])
    return _HINTS.get(reason, f"mend or leave out the rows with: {reason}.")


_Mask = npt.NDArray[np.bool_]


class Validated(NamedTuple):
    """What became of a batch.

    Attributes:
        good: The accepted rows, columns and order as read.
        rejected: The others, with a string column ``reason`` appended.
    """

    good: pa.RecordBatch
    rejected: pa.RecordBatch

    @property
    def counts(self) -> dict[str, int]:
        """Rejected rows by reason; they add up with the accepted ones."""
        reasons = _column(self.rejected, REASON_COLUMN)
        return dict(collections.Counter(reasons.to_pylist()))


def _column(batch: pa.RecordBatch, name: str) -> pa.Array:
    return batch.column(batch.schema.get_field_index(name))


def split_rows(
    batch: pa.RecordBatch, broken: list[tuple[str, _Mask]]
) -> Validated:
    """Splits a batch into accepted and rejected rows.

    Args:
        batch: N rows.
        broken: Reasons and the rows (N,) they hold for; of several reasons
            the first one counts.
    """
    bad = np.zeros(batch.num_rows, bool)
    for _, mask in broken:
        bad |= mask
    if not bad.any():
        rejected = batch.slice(0, 0)
        reasons = pa.array([], pa.string())
        good = batch
    else:
        number = np.full(batch.num_rows, -1)
        for i, (_, mask) in enumerate(broken):
            number[mask & (number < 0)] = i
        names = np.array([name for name, _ in broken], object)
        reasons = pa.array(names[number[bad]], pa.string())
        good = _filter(batch, ~bad)
        rejected = _filter(batch, bad)
    return Validated(
        good,
        pa.RecordBatch.from_arrays(
            [*rejected.columns, reasons],
            schema=rejected.schema.append(pa.field(REASON_COLUMN, pa.string())),
        ),
    )


def _filter(batch: pa.RecordBatch, keep: _Mask) -> pa.RecordBatch:
    return batch.filter(pa.array(keep))


def rows_with_nulls(batch: pa.RecordBatch, codes: tuple[str, ...]) -> _Mask:
    """Rows with a null value, null list or null inside a list."""
    found = np.zeros(batch.num_rows, bool)
    for code in codes:
        if code not in batch.schema.names:
            continue
        column = _column(batch, code)
        if column.null_count:
            found |= values_of(column.is_null())
        if pa.types.is_list(column.type) or pa.types.is_large_list(column.type):
            values = column.flatten()
            if values.null_count:
                parents = values_of(pc.list_parent_indices(column))
                hit = values_of(values.is_null())
                found[parents[hit]] = True
    return found


def rows_with_zero(batch: pa.RecordBatch, code: str) -> _Mask:
    """Rows whose value is 0; none where the column does not exist."""
    if code not in batch.schema.names:
        return np.zeros(batch.num_rows, bool)
    column = pc.fill_null(_column(batch, code), 1)
    return values_of(column) == 0


def _lengths(column: pa.Array) -> npt.NDArray[np.int64]:
    """Lengths of lists, -1 where the list is null."""
    lengths = pc.fill_null(pc.list_value_length(column), -1)
    return values_of(lengths).astype(np.int64)


def validate_samples(batch: pa.RecordBatch) -> Validated:
    """Checks impressions: no null, no id 0, label one-hot of two.

    Args:
        batch: Rows of ``train_samples`` or ``test_samples``. Extra columns
            are kept; a column that is not there is not checked.

    Returns:
        Accepted and rejected rows.
    """
    codes = (raw_tables.LABEL, raw_tables.USER_ID, raw_tables.ITEM_ID)
    broken = [
        (NULL, rows_with_nulls(batch, codes)),
        (
            MISSING_ID,
            rows_with_zero(batch, raw_tables.USER_ID)
            | rows_with_zero(batch, raw_tables.ITEM_ID),
        ),
    ]
    if raw_tables.LABEL in batch.schema.names:
        broken.append((LABEL_NOT_ONE_HOT, ~_one_hot(batch)))
    return split_rows(batch, broken)


def _one_hot(batch: pa.RecordBatch) -> _Mask:
    label = _column(batch, raw_tables.LABEL)
    pairs = _lengths(label) == 2
    labels = label.filter(pa.array(pairs)).flatten()
    values = values_of(pc.fill_null(labels, -1)).reshape(-1, 2)
    good = pairs.copy()
    good[pairs] = ((values == 0) | (values == 1)).all(1) & (
        values.sum(1, dtype=np.int64) == 1
    )
    return good


def clicks(batch: pa.RecordBatch) -> npt.NDArray[np.int8]:
    """Returns the labels of accepted samples.

    Args:
        batch: N rows that `validate_samples` accepted.

    Returns:
        int8 (N,), 1 for a click.
    """
    values = list_values(_column(batch, raw_tables.LABEL))
    return np.ascontiguousarray(values.reshape(-1, 2)[:, 1])


def validate_user_features(batch: pa.RecordBatch) -> Validated:
    """Checks users: no null, no id 0, aligned behaviour lists.

    Empty lists are fine, and so are zeros (padding) inside them; see
    `strip_padding`. A null profile field is missing: it becomes 0.

    Args:
        batch: Rows of ``train_user_features`` or ``test_user_features``.
            Extra columns are kept; a column that is not there is not
            checked.

    Returns:
        Accepted and rejected rows.
    """
    lists = (raw_tables.BEHAVIOR_ITEM_IDS, raw_tables.BEHAVIOR_CATEGORY_IDS)
    broken = [
        (
            NULL,
            rows_with_nulls(batch, (raw_tables.USER_ID, *lists)),
        ),
        (MISSING_ID, rows_with_zero(batch, raw_tables.USER_ID)),
    ]
    if set(lists) <= set(batch.schema.names):
        items, categories = (_lengths(_column(batch, c)) for c in lists)
        broken.append((UNEQUAL_LISTS, items != categories))
    return _null_to_zero(split_rows(batch, broken), raw_tables.USER_PROFILE)


def _null_to_zero(found: Validated, codes: Sequence[str]) -> Validated:
    """Writes 0, which is missing, for nulls of features in accepted rows."""
    good = found.good
    arrays = [
        pc.fill_null(array, 0) if name in codes and array.null_count else array
        for name, array in zip(good.schema.names, good.columns, strict=True)
    ]
    good = pa.RecordBatch.from_arrays(arrays, schema=good.schema)
    return Validated(good, found.rejected)


def validate_item_features(batch: pa.RecordBatch) -> Validated:
    """Checks items: no null id, no id 0.

    A null feature is missing: it becomes 0.

    Args:
        batch: Rows of ``item_features``. Extra columns are kept; a column
            that is not there is not checked.

    Returns:
        Accepted and rejected rows.
    """
    found = split_rows(
        batch,
        [
            (NULL, rows_with_nulls(batch, (raw_tables.ITEM_ID,))),
            (MISSING_ID, rows_with_zero(batch, raw_tables.ITEM_ID)),
        ],
    )
    codes = (
        raw_tables.ITEM_CATEGORY,
        raw_tables.ITEM_CITY,
        raw_tables.ITEM_PROVINCE,
    )
    return _null_to_zero(found, codes)


def validate_embeddings(batch: pa.RecordBatch) -> Validated:
    """Checks item vectors: no null, no id 0, 128 codes each, not all 0.

    Args:
        batch: Rows of ``scl_embedding_int8_p90``. Extra columns are kept; a
            column that is not there is not checked.

    Returns:
        Accepted and rejected rows.
    """
    codes = (raw_tables.ITEM_ID, raw_tables.SCL_EMBEDDING)
    broken = [
        (NULL, rows_with_nulls(batch, codes)),
        (MISSING_ID, rows_with_zero(batch, raw_tables.ITEM_ID)),
    ]
    if raw_tables.SCL_EMBEDDING in batch.schema.names:
        column = _column(batch, raw_tables.SCL_EMBEDDING)
        lengths = _lengths(column)
        broken.append((EMBEDDING_LENGTH, lengths != raw_tables.EMBEDDING_DIM))
        fitting = lengths == raw_tables.EMBEDDING_DIM
        zero = np.zeros(batch.num_rows, bool)
        kept = column if fitting.all() else column.filter(pa.array(fitting))
        values = values_of(pc.fill_null(kept.flatten(), 0))
        vectors = values.reshape(-1, raw_tables.EMBEDDING_DIM)
        zero[fitting] = ~vectors.any(axis=1)
        broken.append((ZERO_VECTOR, zero))
    return split_rows(batch, broken)


VALIDATORS: Mapping[str, Callable[[pa.RecordBatch], Validated]] = {
    "samples": validate_samples,
    "user_features": validate_user_features,
    "item_features": validate_item_features,
    "embeddings": validate_embeddings,
    raw_tables.TRAIN_SAMPLES: validate_samples,
    raw_tables.TEST_SAMPLES: validate_samples,
    raw_tables.TRAIN_USER_FEATURES: validate_user_features,
    raw_tables.TEST_USER_FEATURES: validate_user_features,
    raw_tables.EMBEDDINGS: validate_embeddings,
}
"""Table name, or the name without split or format, to its rules."""


def validate(table: str, batch: pa.RecordBatch) -> Validated:
    """Checks a batch by the rules of its table.

    Args:
        table: A key of `VALIDATORS`.
        batch: Rows.

    Returns:
        Accepted and rejected rows.
    """
    if table not in VALIDATORS:
        raise ValueError(
            f"table: expected one of {sorted(VALIDATORS)}. Received: {table}"
        )
    return VALIDATORS[table](batch)


class UniqueKeys:
    """Keeps the first row of every key over all batches of a table.

    Holds eight bytes per key: sorted runs of growing size that are merged
    like a log-structured merge tree, hence O(log n) merges of each key.

    Args:
        code: Key column, int64.
        reason: Reason of the rejected rows.
    """

    def __init__(self, code: str, reason: str) -> None:
        """Starts with no key seen."""
        self._code = code
        self._reason = reason
        self._runs: list[npt.NDArray[np.int64]] = []

    def __len__(self) -> int:
        """Number of distinct keys seen."""
        return sum(len(run) for run in self._runs)

    def keys(self) -> npt.NDArray[np.int64]:
        """Returns all keys seen: int64, sorted, distinct."""
        if not self._runs:
            return np.zeros(0, np.int64)
        return np.sort(np.concatenate(self._runs))

    def check(self, batch: pa.RecordBatch) -> Validated:
        """Splits a batch into first and repeated rows of a key.

        Args:
            batch: Rows without null keys.

        Returns:
            First rows as accepted, repeated ones as rejected.
        """
        ids = values_of(_column(batch, self._code))
        return split_rows(batch, [(self._reason, ~self.first(ids))])

    def first(self, ids: npt.NDArray[np.int64]) -> _Mask:
        """Adds keys and tells which occur for the first time.

        Args:
            ids: int64 (N,), may repeat.

        Returns:
            bool (N,), true at the first occurrence of a key over all calls.
        """
        found = np.zeros(len(ids), bool)
        distinct, first = np.unique(ids, return_index=True)
        known = np.zeros(len(distinct), bool)
        for run in self._runs:
            known |= contains(run, distinct)
        found[first[~known]] = True
        if not known.all():
            self._add(distinct[~known])
        return found

    def _add(self, run: npt.NDArray[np.int64]) -> None:
        while self._runs and len(self._runs[-1]) <= 2 * len(run):
            run = np.sort(
                np.concatenate([self._runs.pop(), run]), kind="stable"
            )
        self._runs.append(run)


def contains(
    sorted_keys: npt.NDArray[np.int64], values: npt.NDArray[np.int64]
) -> _Mask:
    """Tells which values are among sorted keys.

    Args:
        sorted_keys: int64 (N,), ascending.
        values: int64, any shape.

    Returns:
        bool, shape of `values`.
    """
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
    """Rejects rows whose key is not known, e.g. items without features.

    Args:
        batch: Rows without null keys.
        code: Key column, int64.
        sorted_keys: Known keys, ascending.
        reason: Reason of the rejected rows.

    Returns:
        Rows with a known key as accepted, the others as rejected.
    """
    ids = values_of(_column(batch, code))
    return split_rows(batch, [(reason, ~contains(sorted_keys, ids))])


def strip_padding(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Removes padding (item id 0) from the behaviour lists.

    Both lists lose the same positions, whichever side the padding is on, so
    they stay aligned and in order.

    Args:
        batch: Rows that `validate_user_features` accepted.

    Returns:
        The same rows with shorter lists; the same object without padding.
    """
    lists = (raw_tables.BEHAVIOR_ITEM_IDS, raw_tables.BEHAVIOR_CATEGORY_IDS)
    items = _column(batch, lists[0])
    values = list_values(items)
    real = values != 0
    if real.all():
        return batch
    offsets = np.r_[0, np.cumsum(real)][list_offsets(items)]
    columns = list(batch.columns)
    for code in lists:
        index = batch.schema.get_field_index(code)
        kept = list_values(batch.column(index))[real]
        columns[index] = list_array(kept, offsets, pa.int64())
    schema = batch.schema
    for code in lists:
        index = schema.get_field_index(code)
        schema = schema.set(index, pa.field(code, columns[index].type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


__all__ = [
    "DUPLICATE_ITEM",
    "DUPLICATE_USER",
    "EMBEDDING_LENGTH",
    "LABEL_NOT_ONE_HOT",
    "MISSING_ID",
    "NO_ITEM_FEATURES",
    "NO_USER_FEATURES",
    "NULL",
    "REASONS",
    "REASON_COLUMN",
    "UNEQUAL_LISTS",
    "UniqueKeys",
    "VALIDATORS",
    "ZERO_VECTOR",
    "Validated",
    "clicks",
    "contains",
    "hint_for",
    "require_keys",
    "rows_with_nulls",
    "rows_with_zero",
    "split_rows",
    "strip_padding",
    "validate",
    "validate_embeddings",
    "validate_item_features",
    "validate_samples",
    "validate_user_features",
]
