"""Guesses the roles of a folder's tables from names and first rows."""

from __future__ import annotations

import dataclasses
import datetime
import re
from collections.abc import Sequence

from muse_tools.datasets.samples import Column, Sample

READY_MADE = (
    "train_samples",
    "test_samples",
    "train_user_features",
    "test_user_features",
    "item_features",
    "scl_embedding_int8_p90",
)
"""Fixed names of the tables of a data set with ready-made histories."""

_USERS = "user|customer|household|reader|member|visitor|uid|client|account"
_USERS += "|person|player|viewer|buyer"
_ITEMS = "item|product|sku|movie|film|article|song|track|book|news|asin|goods"
_ITEMS += "|video|listing|offer|recipe|game|artist|content|doc"
_LABELS = "click|label|open|bought|purchas|order|like|watch|rating|stars|score"
_LABELS += "|convert|target"
_SCORES = "rating|stars|score"
_TIMES = "time|date|stamp|_at$|^at$|^ts$|_ts$|when|day"
_SHOWN = "impression|shown|view|exposure|sample|rating|slate|recommend"
_DONE = "event|log|behavi|action|click|transaction|purchase|interaction|histor"
_VECTORS = "vector|embed"
_YEAR_2000 = 946_684_800


@dataclasses.dataclass
class Roles:
    """The role of each table, and the key columns that join the tables."""

    user: str = ""
    item: str = ""
    impressions: Sample | None = None
    events: Sample | None = None
    users: Sample | None = None
    items: Sample | None = None
    vectors: Sample | None = None
    ready_made: bool = False
    others: list[Sample] = dataclasses.field(default_factory=list)
    questions: list[str] = dataclasses.field(default_factory=list)


def matches(pattern: str, name: str) -> bool:
    """Returns whether a pattern occurs in a name, ignoring case."""
    return re.search(pattern, name, re.IGNORECASE) is not None


def is_key(column: Column) -> bool:
    """Returns whether the values of a column may be ids."""
    return column.kind in ("int", "text") and not column.is_list


def time_of(sample: Sample) -> Column | None:
    """Returns the column of times: timestamps, or else whole seconds."""
    columns = [c for c in sample.columns.values() if not c.is_list]
    moments = [c for c in columns if c.kind == "moment"]
    named = [c for c in moments if matches(_TIMES, c.name)]
    now = datetime.datetime.now(datetime.timezone.utc).timestamp()
    for one in columns:
        if one.kind == "int" and matches(_TIMES, one.name):
            span = one.span()
            if span and _YEAR_2000 <= span[0] and span[1] <= now + 86_400:
                named.append(one)
    return next(iter([*named, *moments]), None)


def label_of(sample: Sample, keys: Sequence[str]) -> Column | None:
    """Returns the column that holds 0 and 1, or scores."""
    found = [
        column
        for column in sample.columns.values()
        if column.name not in keys and _is_label(column)
    ]
    named = [column for column in found if matches(_LABELS, column.name)]
    scores = [
        column
        for column in sample.columns.values()
        if column.kind in ("int", "float")
        and column.name not in keys
        and not column.is_list
        and matches(_SCORES, column.name)
    ]
    return next(iter([*named, *scores, *found]), None)


def is_score(column: Column) -> bool:
    """Returns whether a column may hold scores that users gave to items."""
    if column.is_list or column.kind not in ("int", "float"):
        return False
    small = {*column.values.to_pylist()} <= {None, *range(6)}
    return matches(_SCORES, column.name) or (small and column.distinct > 2)


def _is_label(column: Column) -> bool:
    if column.is_list:
        return column.width == 2 and column.kind == "int"
    span = column.span() if column.kind in ("int", "bool") else None
    return span is not None and (int(span[0]), int(span[1])) == (0, 1)


def vector_of(sample: Sample, key: str) -> Column | None:
    """Returns the first column of vectors, with at least 8 numbers each."""
    return next(
        (
            column
            for column in sample.columns.values()
            if column.name != key
            and column.width >= 8
            and column.kind in ("int", "float")
        ),
        None,
    )


def find_roles(samples: Sequence[Sample]) -> Roles:
    """Guesses the roles of all tables of a folder."""
    roles = Roles()
    by_name = {sample.name: sample for sample in samples}
    if {*READY_MADE[:2]} & {*by_name}:
        _ready_made(roles, by_name)
    else:
        logs = [s for s in samples if _is_log(s, samples)]
        others = [s for s in samples if s not in logs]
        _find_keys(roles, logs, others)
        _find_entities(roles, others)
        _find_logs(roles, logs)
    used = [*vars(roles).values()]
    used += [by_name.get(one) for one in READY_MADE if roles.ready_made]
    roles.others = [s for s in samples if not any(s is one for one in used)]
    return roles


def _is_log(sample: Sample, samples: Sequence[Sample]) -> bool:
    """Returns whether rows are of a time, not of one user or item each.

    The id of a row, such as that of an order, may be unique in a log.
    """
    rest = [s.columns for s in samples if s is not sample]
    keys = _keys(sample)
    shared = [n for n in keys if any(n in columns for columns in rest)]
    unique = {n for n in shared if _is_unique(sample.columns[n])}
    is_entity = len(shared) - len(unique) < 2 and any(
        name in columns and not _is_unique(columns[name])
        for name in unique
        for columns in rest
    )
    return bool(time_of(sample)) and len(keys) >= 2 and not is_entity


def _is_unique(column: Column) -> bool:
    return column.share > 0.95


def _keys(sample: Sample) -> list[str]:
    time = time_of(sample)
    return [
        column.name
        for column in sample.columns.values()
        if is_key(column) and column is not time
    ]


def _ready_made(roles: Roles, tables: dict[str, Sample]) -> None:
    roles.ready_made = True
    names = ("train_samples", "train_user_features", *READY_MADE[4:])
    found = [tables.get(name) for name in names]
    roles.impressions, roles.users, roles.items, roles.vectors = found
    shared = [s for s in (roles.impressions, roles.users) if s]
    roles.user = _named(_USERS, _common(shared)) or next(
        iter(_common(shared)), ""
    )
    shared = [s for s in (roles.impressions, roles.items) if s]
    names_of = [n for n in _common(shared) if n != roles.user]
    roles.item = _named(_ITEMS, names_of) or next(iter(names_of), "")
    for name in READY_MADE[:5]:
        if name not in tables:
            roles.questions.append(f"the table {name} is missing")


def _common(samples: Sequence[Sample]) -> list[str]:
    """Returns the key columns that all tables have."""
    first = _keys(samples[0]) if samples else []
    return [n for n in first if all(n in s.columns for s in samples)]


def _named(pattern: str, names: Sequence[str]) -> str:
    found = [name for name in names if matches(pattern, name)]
    # Names that end in "id" and the like are preferred.
    found.sort(key=lambda name: not matches("id$|^uid|key$|sku|asin", name))
    return found[0] if found else ""


def _find_keys(
    roles: Roles, logs: Sequence[Sample], others: Sequence[Sample]
) -> None:
    """Finds the keys, first among columns that join tables, then by name."""
    in_logs = [name for sample in logs for name in _keys(sample)]
    joining: dict[str, list[Sample]] = {}
    for sample in others:
        for name, column in sample.columns.items():
            if name in in_logs and is_key(column) and _is_unique(column):
                joining.setdefault(name, []).append(sample)
    roles.user = _named(_USERS, [*joining]) or _named(_USERS, in_logs)
    rest = [name for name in joining if name != roles.user]
    by_table = [n for n in rest if any(_is_of_items(s) for s in joining[n])]
    roles.item = (
        _named(_ITEMS, rest)
        or next(iter([*by_table, *rest]), "")
        or _named(_ITEMS, [n for n in in_logs if n != roles.user])
    )
    if not roles.user:
        ids = [n for n in in_logs if n != roles.item]
        roles.user = next((n for n in ids if matches("id$", n)), "")
        roles.questions.append(
            f"user: is {roles.user} the key of the users?"
            if roles.user
            else "user: which column holds the key of the users?"
        )
    if not roles.item:
        roles.questions.append(
            "item: no column of ids joins a log with a table of items. Which "
            "column is the key? It needs the same name in all tables"
        )


def _is_of_items(sample: Sample) -> bool:
    return matches(_ITEMS, sample.name)


def _find_entities(roles: Roles, others: Sequence[Sample]) -> None:
    of_items = [s for s in others if roles.item and roles.item in s.columns]
    vectors = [s for s in of_items if vector_of(s, roles.item)]
    # A table of vectors has few other columns.
    vectors.sort(key=lambda s: (not matches(_VECTORS, s.name), len(s.columns)))
    if vectors and (len(of_items) > 1 or len(vectors[0].columns) == 2):
        roles.vectors = vectors[0]
    items = [s for s in of_items if s is not roles.vectors]
    items.sort(key=lambda s: (not _is_of_items(s), -len(s.columns)))
    roles.items = next(iter(items), None)
    users = [s for s in others if roles.user and roles.user in s.columns]
    users = [s for s in users if s is not roles.items]
    roles.users = next(iter(users), None)


def _find_logs(roles: Roles, logs: Sequence[Sample]) -> None:
    keys = [roles.user, roles.item]
    both = [s for s in logs if {*keys} <= {*s.columns}]
    labeled = [s for s in both if label_of(s, keys)]
    shown = sorted(labeled, key=lambda s: not matches(_SHOWN, s.name))
    roles.impressions = next(iter([*shown, *both]), None)
    rest = [s for s in both if s is not roles.impressions]
    done = sorted(rest, key=lambda s: not matches(_DONE, s.name))
    roles.events = next(iter(done), roles.impressions)
    if roles.impressions is None:
        roles.questions.append(
            "impressions: no table has users, items and a time. Which table "
            "says which items were shown to which users, and when?"
        )
    elif not labeled:
        roles.questions.append(
            f"labels: no column of {roles.impressions.name} holds 0 and 1, or "
            "scores. A ranker also needs items that were shown but not chosen"
        )
