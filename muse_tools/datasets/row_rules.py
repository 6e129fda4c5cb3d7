"""Rules that decide which rows of a table cannot be used.

They depend on a record batch and on the current time, because rows with a time
in the future are rejected.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from muse_tools.datasets import casting, feature_values, raw_tables
from muse_tools.datasets.arrow_lists import Mask, list_lengths, values_of
from muse_tools.datasets.reasons import (
    DATE_NUMBER,
    EMBEDDING_LENGTH,
    FUTURE,
    LABEL_NOT_BINARY,
    LABEL_NOT_ONE_HOT,
    MISSING_ID,
    NOT_FINITE,
    NULL,
    UNEQUAL_LISTS,
    VECTOR_LENGTH,
    WRONG_WEIGHT,
    ZERO_VECTOR,
)

_TOLERANCE_S = 86_400


class Broken(NamedTuple):
    """A reason, a mask (N,) of the rows it applies to, and their column."""

    reason: str
    rows: Mask
    column: str = ""


def _with_null(column: pa.Array) -> Mask:
    """Returns rows with a null value, a null list or a null inside a list."""
    found = np.array(values_of(column.is_null()))
    if casting.is_list(column.type):
        values = column.flatten()
        if values.null_count:
            parents = values_of(pc.list_parent_indices(column))
            found[parents[values_of(values.is_null())]] = True
    return found


def check_ids(
    batch: pa.RecordBatch, ids: Sequence[str], others: Sequence[str] = ()
) -> list[Broken]:
    """Applies the first two rules: no null in any column, and no id 0.

    Columns that are not in the batch are skipped.
    """
    names = set(batch.schema.names)
    nulls = [
        Broken(NULL, _with_null(batch[name]), name)
        for name in dict.fromkeys([*ids, *others])
        if name in names
    ]
    return nulls + [
        Broken(MISSING_ID, values_of(pc.fill_null(batch[name], 1)) == 0, name)
        for name in ids
        if name in names
    ]


def _one_hot(label: pa.Array) -> Mask:
    good = list_lengths(label) == 2
    labels = label.filter(pa.array(good)).flatten()
    values = values_of(pc.fill_null(labels, -1)).reshape(-1, 2)
    good[good] = ((values == 0) | (values == 1)).all(1) & (
        values.sum(1, dtype=np.int64) == 1
    )
    return good


def _check_samples(batch: pa.RecordBatch) -> list[Broken]:
    found = []
    for field in filter(raw_tables.is_label, batch.schema):
        label = batch[field.name]
        if casting.is_list(label.type):
            wrong = ~_one_hot(label)
            found.append(Broken(LABEL_NOT_ONE_HOT, wrong, field.name))
            continue
        values = values_of(pc.fill_null(label, 0))
        wrong = (values != 0) & (values != 1)
        found.append(Broken(LABEL_NOT_BINARY, wrong, field.name))
    if raw_tables.WEIGHT in batch.schema.names:
        weights = values_of(pc.fill_null(batch[raw_tables.WEIGHT], np.nan))
        usable = np.isfinite(weights) & (weights >= 0)
        found.append(Broken(WRONG_WEIGHT, ~usable, raw_tables.WEIGHT))
    return found + _check_times(batch)


def _check_times(batch: pa.RecordBatch) -> list[Broken]:
    if raw_tables.TIME not in batch.schema.names:
        return []
    seconds = values_of(pc.fill_null(batch[raw_tables.TIME], 0))
    late = seconds > time.time() + _TOLERANCE_S
    return [
        Broken(FUTURE, late, raw_tables.TIME),
        Broken(DATE_NUMBER, _are_dates(seconds), raw_tables.TIME),
    ]


def _are_dates(seconds: np.ndarray) -> Mask:
    """Returns which numbers read as dates of 1900 to 2100, as YYYYMMDD.

    As seconds they lie in August 1970, and no log is as old.
    """
    months, days = seconds // 100 % 100, seconds % 100
    found: Mask = (seconds >= 19_000_101) & (seconds <= 21_001_231)
    return found & (months >= 1) & (months <= 12) & (days >= 1) & (days <= 31)


def history(batch: pa.RecordBatch) -> list[str]:
    """Returns the names of the list columns of histories, items first."""
    return [n for n in batch.schema.names if n.startswith("behavior_")]


def _check_lists(batch: pa.RecordBatch) -> list[Broken]:
    """Checks that the lists of a history are equally long."""
    first, *others = history(batch)
    items = list_lengths(batch[first], -1)
    return [
        Broken(UNEQUAL_LISTS, items != list_lengths(batch[name], -1), name)
        for name in others
    ]


def _check_codes(batch: pa.RecordBatch) -> list[Broken]:
    column, dim = batch[raw_tables.SCL_EMBEDDING], raw_tables.EMBEDDING_DIM
    fitting = list_lengths(column, -1) == dim
    kept = column.filter(pa.array(fitting))
    values = values_of(pc.fill_null(kept.flatten(), 0))
    zero = np.zeros(batch.num_rows, bool)
    zero[fitting] = ~values.reshape(-1, dim).any(axis=1)
    return [
        Broken(EMBEDDING_LENGTH, ~fitting, raw_tables.SCL_EMBEDDING),
        Broken(ZERO_VECTOR, zero, raw_tables.SCL_EMBEDDING),
    ]


class _Rules(NamedTuple):
    """Keys, other columns without null, more checks, prefixes of features."""

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
        (raw_tables.USER_ID,), history, _check_lists, ("user_", "behavior_")
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


def broken_rows(table: str, batch: pa.RecordBatch) -> list[Broken]:
    """Returns the broken rules of a table, in order of precedence."""
    rules = rules_of(table)
    others = rules.others(batch)
    broken = check_ids(batch, rules.ids, others)
    if others and {*others} <= {*batch.schema.names}:
        broken += rules.check(batch)
    for field in features_of(table, batch):
        of_length, finite = feature_values.usable(batch[field.name], field)
        broken.append(Broken(VECTOR_LENGTH, ~of_length, field.name))
        broken.append(Broken(NOT_FINITE, ~finite, field.name))
    return [one for one in broken if one.rows.any()]


def features_of(table: str, batch: pa.RecordBatch) -> list[pa.Field]:
    """Returns the fields of features, whose values may be missing."""
    prefixes = rules_of(table).features
    return [f for f in batch.schema if prefixes and f.name.startswith(prefixes)]


def rules_of(table: str) -> _Rules:
    """Returns the rules of a table, whose name may omit the split."""
    rules = _RULES.get(table.removeprefix("train_").removeprefix("test_"))
    if rules is None:
        raise ValueError(
            f"table: expected one of {sorted(_RULES)}. Received: {table}"
        )
    return rules
