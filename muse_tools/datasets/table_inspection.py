"""Summarizes each raw table in one pass; results are JSON values."""

from __future__ import annotations

import collections
import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from muse_tools.datasets import raw_tables, validation
from muse_tools.datasets.arrow_lists import (
    Ints,
    list_offsets,
    list_values,
    values_of,
)
from muse_tools.datasets.reading import Reading
from muse_tools.datasets.validation import RowCounts, UniqueKeys, share

_QUANTILES = {
    "min": 0.0,
    "p10": 0.1,
    "p50": 0.5,
    "p90": 0.9,
    "p99": 0.99,
    "max": 1.0,
}
_SCALE = 127


def inspect_items(
    reading: Reading,
) -> tuple[dict[str, Any] | None, Ints | None]:
    """Returns the section of the items, and their ids."""
    name = raw_tables.ITEM_FEATURES
    if not reading.can_read(name):
        return None, None
    rows = RowCounts()
    unique = UniqueKeys(raw_tables.ITEM_ID, validation.DUPLICATE_ITEM)
    missing = dict.fromkeys([*reading.tables.declared.tables["items"]][1:], 0)
    for batch in reading.batches(name, rows, unique):
        reading.numberings.add(raw_tables.ITEM_ID, batch.read)
        reading.count_missing(missing, batch)
    reading.check_usable(name, rows)
    return {
        **rows.to_dict(),
        "missing_values": _shares(missing, rows.accepted),
    }, unique.keys()


def inspect_embeddings(
    reading: Reading,
) -> tuple[dict[str, Any] | None, Ints | None]:
    """Returns the section of the item vectors, and the ids of their items."""
    name, dim = raw_tables.EMBEDDINGS, raw_tables.EMBEDDING_DIM
    if not reading.can_read(name):
        return None, None
    rows = RowCounts()
    unique = UniqueKeys(raw_tables.ITEM_ID, validation.DUPLICATE_ITEM)
    # Squared norms of int8 codes are small integers, so a histogram gives
    # exact quantiles in constant memory.
    histogram = np.zeros(dim * 128**2 + 1, np.int64)
    widths: set[int] = set()
    for _, good, rejected in reading.batches(name, rows, unique):
        wrong = rejected[raw_tables.SCL_EMBEDDING]
        widths.update(wrong.value_lengths().drop_null().unique().to_pylist())
        codes = list_values(good[raw_tables.SCL_EMBEDDING]).reshape(-1, dim)
        wide = codes.astype(np.float32)
        squares = np.einsum("nd,nd->n", wide, wide).astype(np.int64)
        histogram += np.bincount(squares, minlength=len(histogram))
    widths.discard(dim)
    lengths = ", ".join(map(str, sorted(widths)[:8]))
    received = f" Received: lengths {lengths}." if widths else ""
    reading.check_usable(name, rows, received)
    if widths and rows.accepted:
        count = rows.rejected[validation.EMBEDDING_LENGTH]
        reading.notes.append(
            f"{name}: in {count:,} rows {validation.EMBEDDING_LENGTH}."
            f"{received}"
        )
    return {
        **rows.to_dict(),
        "dim": dim,
        "scale": f"1/{_SCALE}",
        "norm": _norm_quantiles(histogram),
    }, unique.keys()


def _norm_quantiles(histogram: Ints) -> dict[str, float] | None:
    """Returns quantiles (nearest rank) of the norms of non-zero vectors."""
    counts = histogram.copy()
    counts[0] = 0
    total = int(counts.sum())
    if not total:
        return None
    norms = np.sqrt(np.arange(len(counts))) / _SCALE
    ranks = np.maximum(1, np.array([*_QUANTILES.values()]) * total)
    found = norms[np.searchsorted(np.cumsum(counts), ranks)]
    return _rounded([*found, norms @ counts / total])


def _rounded(values: Sequence[float]) -> dict[str, float]:
    """Returns the rounded quantiles and the mean by name."""
    names = (*_QUANTILES, "mean")
    return {n: round(float(v), 4) for n, v in zip(names, values, strict=True)}


def _shares(missing: Mapping[str, int], rows: int) -> dict[str, float | None]:
    return {name: share(count, rows) for name, count in missing.items()}


def _features(
    reading: Reading, table: str, prefixes: tuple[str, ...]
) -> dict[str, int]:
    names = reading.tables[table].schema.names
    return {name: 0 for name in names if name.startswith(prefixes)}


def user_keys(reading: Reading, name: str) -> tuple[Ints | None, int]:
    """Returns the distinct user ids, and the number of duplicate rows."""
    if not reading.can_read(name):
        return None, 0
    rows = RowCounts()
    unique = UniqueKeys(raw_tables.USER_ID, validation.DUPLICATE_USER)
    for batch in reading.batches(name, rows, unique, [raw_tables.USER_ID]):
        reading.numberings.add(raw_tables.USER_ID, batch.read)
    return unique.keys(), rows.rejected[validation.DUPLICATE_USER]


def inspect_users_of_logs(
    reading: Reading,
) -> tuple[dict[str, Any] | None, Ints | None]:
    """Returns the section of users without histories, and their ids."""
    name = raw_tables.USERS
    if not reading.can_read(name):
        return None, None
    rows = RowCounts()
    unique = UniqueKeys(raw_tables.USER_ID, validation.DUPLICATE_USER)
    missing = _features(reading, name, ("user_",))
    missing.pop(raw_tables.USER_ID)
    for batch in reading.batches(name, rows, unique):
        reading.numberings.add(raw_tables.USER_ID, batch.read)
        reading.count_missing(missing, batch)
    reading.check_usable(name, rows)
    shares = _shares(missing, rows.accepted)
    return {**rows.to_dict(), "missing_values": shares}, unique.keys()


def inspect_users(
    reading: Reading, name: str, limit: int, embedded: Ints | None
) -> dict[str, Any] | None:
    """Returns the section of a table of users, from at most `limit` rows."""
    if not reading.can_read(name):
        return None
    rows = RowCounts()
    unique = UniqueKeys(raw_tables.USER_ID, validation.DUPLICATE_USER)
    lengths = [np.zeros(0, np.int64)]
    padding = behaviors = with_embedding = 0
    features = reading.tables.declared.features.user
    missing = dict.fromkeys([f"user_{name}" for name in features], 0)
    for batch in reading.batches(name, rows, unique, limit=limit):
        reading.count_missing(missing, batch)
        column = batch.good[raw_tables.BEHAVIOR_ITEM_IDS]
        items = list_values(column)
        real = items != 0
        lengths.append(np.diff(np.r_[0, np.cumsum(real)][list_offsets(column)]))
        padding += int((~real).sum())
        behaviors += int(real.sum())
        if embedded is not None:
            with_embedding += int(
                validation.contains(embedded, items[real]).sum()
            )
    reading.check_usable(name, rows)
    all_lengths = np.concatenate(lengths)
    quantiles = None
    if len(all_lengths):
        found = np.quantile(all_lengths, [*_QUANTILES.values()])
        quantiles = _rounded([*found, float(np.mean(all_lengths))])
    return {
        **rows.to_dict(),
        "history_length": quantiles,
        "empty_histories": int((all_lengths == 0).sum()),
        "behaviors": behaviors,
        "padding": padding,
        "behaviors_with_embedding": None
        if embedded is None
        else share(with_embedding, behaviors),
        "missing_values": _shares(missing, rows.accepted),
    }


def inspect_samples(
    reading: Reading, name: str, known: Mapping[str, Ints | None]
) -> tuple[dict[str, Any] | None, Ints | None]:
    """Returns the section of a table of impressions, and ids of their users.

    `known` has sorted ids of ``users``, ``items`` and ``embedded`` items; None
    if their table cannot be read.
    """
    if not reading.can_read(name):
        return None, None
    log = reading.tables.declared.log
    splits = dict.fromkeys(("train", "eval") if log else (), 0)
    times: list[int] = []
    rows = RowCounts()
    users = UniqueKeys(raw_tables.USER_ID, "seen")
    items = UniqueKeys(raw_tables.ITEM_ID, "seen")
    hits = dict.fromkeys(known, 0)
    hints = {
        "users": (raw_tables.USER_ID, validation.NO_USER_FEATURES),
        "items": (raw_tables.ITEM_ID, validation.NO_ITEM_FEATURES),
    }
    labels = dict.fromkeys(reading.tables.declared.label_names, 0)
    missing = _features(reading, name, ("context_", "candidate_"))
    joined = 0
    for batch in reading.batches(name, rows):
        good = batch.good
        reading.count_missing(missing, batch)
        for label in labels:
            some = validation.clicks(good, label)
            labels[label] += int(some.sum(dtype=np.int64))
        user_ids = values_of(good[raw_tables.USER_ID])
        item_ids = values_of(good[raw_tables.ITEM_ID])
        if log:
            seconds = values_of(good[raw_tables.TIME])
            _add_span(times, seconds)
            for split in splits:
                start, end = log.seconds(split)
                inside = (start <= seconds) & (seconds < end)
                splits[split] += int(inside.sum())
        users.first(user_ids)
        items.first(item_ids)
        found = np.ones(good.num_rows, bool)
        for what, keys in known.items():
            if keys is not None:
                ids = user_ids if what == "users" else item_ids
                hit = validation.contains(keys, ids)
                hits[what] += int(hit.sum())
                if what in hints and (what == "items" or reading.needs_users()):
                    column, reason = hints[what]
                    reading.rejections.count(name, reason, column, ids[~hit])
                if what != "embedded":
                    found &= hit
        joined += int(found.sum())
    reading.check_usable(name, rows)
    total, clicks = rows.accepted, labels[raw_tables.LABEL]
    shares = {
        what: None if keys is None else share(hits[what], total)
        for what, keys in known.items()
    }
    return {
        **rows.to_dict(),
        **({"splits": splits, **_span(times)} if log else {}),
        "clicks": clicks,
        "click_rate": share(clicks, total),
        **({"label_rates": _shares(labels, total)} if len(labels) > 1 else {}),
        **({"missing_values": _shares(missing, total)} if missing else {}),
        "users": len(users),
        "items": len(items),
        "impressions_per_user": round(total / len(users), 2)
        if len(users)
        else None,
        "with_user_row": shares["users"],
        "with_item_row": shares["items"],
        "candidates_with_embedding": shares["embedded"],
        # Logs without user features need no table of users.
        "joined": None
        if known["items"] is None
        or (known["users"] is None and reading.needs_users())
        else share(joined, total),
    }, users.keys()


def inspect_events(
    reading: Reading, items: Ints | None, shown: Ints | None
) -> dict[str, Any] | None:
    """Returns the section of the events.

    `items` are ids in the item table, `shown` ids of users of impressions.
    """
    if not reading.can_read(raw_tables.EVENTS):
        return None
    rows = RowCounts()
    users = UniqueKeys(raw_tables.USER_ID, "seen")
    times: list[int] = []
    actions: collections.Counter[str] = collections.Counter()
    known = of_shown = 0
    missing = _features(reading, raw_tables.EVENTS, ("behavior_",))
    for batch in reading.batches(raw_tables.EVENTS, rows):
        good = batch.good
        reading.count_missing(missing, batch)
        user_ids = values_of(good[raw_tables.USER_ID])
        users.first(user_ids)
        _add_span(times, values_of(good[raw_tables.TIME]))
        if shown is not None:
            of_shown += int(validation.contains(shown, user_ids).sum())
        if items is not None:
            ids = values_of(good[raw_tables.ITEM_ID])
            known += int(validation.contains(items, ids).sum())
        if raw_tables.ACTION in good.schema.names:
            for one in good[raw_tables.ACTION].value_counts().to_pylist():
                actions[str(one["values"])] += one["counts"]
    reading.check_usable(raw_tables.EVENTS, rows)
    log = reading.tables.declared.log
    return {
        **rows.to_dict(),
        "users": len(users),
        "of_users_shown": None
        if shown is None
        else share(of_shown, rows.accepted),
        **_span(times),
        "with_item_row": share(known, rows.accepted),
        "actions": dict(actions.most_common(20)),
        **(
            {"absent_actions": sorted({*log.keep} - {*actions})}
            if log and log.keep
            else {}
        ),
        **(
            {"missing_values": _shares(missing, rows.accepted)}
            if missing
            else {}
        ),
    }


def _add_span(times: list[int], seconds: Ints) -> None:
    """Keeps the first and the last time among those seen."""
    if len(seconds):
        seen = [*times, int(seconds.min()), int(seconds.max())]
        times[:] = min(seen), max(seen)


def _span(times: Sequence[int]) -> dict[str, str | None]:
    first, last = map(_moment, times) if times else (None, None)
    return {"first": first, "last": last}


def _moment(seconds: int) -> str:
    moment = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    return moment.isoformat()
