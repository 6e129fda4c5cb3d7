"""Data sets in layouts of their own, and their join in plain Python."""

from __future__ import annotations

import collections
import dataclasses
import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

LOWEST, HIGHEST = -(2**63), 2**63 - 1
SPLITS = {"train": "train", "eval": "test"}


@dataclasses.dataclass(frozen=True)
class Layout:
    """A declaration, and what it says: columns of keys and of features."""

    text: str
    user_key: str
    item_key: str
    label: str
    history: str
    vectors: str
    user: dict[str, str]
    item: dict[str, str]
    behavior: dict[str, str]
    """Columns of behaviors; an empty one is looked up by the item."""

    @property
    def lists(self):
        return [self.history, *filter(None, self.behavior.values())]

    def columns(self, table):
        """Columns of a table of the data set."""
        kind = table.removeprefix("train_").removeprefix("test_")
        return {
            "samples": [self.user_key, self.item_key, self.label],
            "user_features": [self.user_key, *self.user.values(), *self.lists],
            "item_features": [self.item_key, *self.item.values()],
            "scl_embedding_int8_p90": [self.item_key, self.vectors],
        }[kind]


NEWS = Layout(
    text="""
name: news
user: reader
item: {column: article}
labels: {click: opened}
features:
  user: {age: age_band, country: , plan: subscription}
  item: {topic: subject, source: }
  behavior: {source: read_sources, topic: read_subjects}
  matches: [source]
history: read_articles
vectors: {column: embedding}
""",
    user_key="reader",
    item_key="article",
    label="opened",
    history="read_articles",
    vectors="embedding",
    user={"age": "age_band", "country": "country", "plan": "subscription"},
    item={"topic": "subject", "source": "source"},
    behavior={"source": "read_sources", "topic": "read_subjects"},
)
# Nothing that could be left out, and every column by its default.
BARE = Layout(
    text="{name: bare, features: {item: {kind: }}}",
    user_key="user_id",
    item_key="item_id",
    label="click",
    history="behavior_item_ids",
    vectors="item_vector",
    user={},
    item={"kind": "kind"},
    behavior={},
)
# Some features of behaviors are those of their items.
MIXED = dataclasses.replace(
    NEWS,
    text=NEWS.text.replace("topic: read_subjects", "topic: "),
    behavior={"source": "read_sources", "topic": ""},
)
LAYOUTS = {"news": NEWS, "bare": BARE, "mixed": MIXED}
# Types of files; the others are int64.
TYPES = {
    "opened": pa.int8(),
    "age_band": pa.int32(),
    "source": pa.uint16(),
    "embedding": pa.list_(pa.float32()),
    "item_vector": pa.list_(pa.int8()),
    "read_articles": pa.large_list(pa.int64()),
    "read_sources": pa.list_(pa.int32()),
    "read_subjects": pa.list_(pa.int64()),
    "behavior_item_ids": pa.list_(pa.int64()),
}


def make(layout: Layout, seed: int = 0, broken: bool = True) -> dict:
    """Returns rows by table; some of every kind are broken, if wanted."""
    rng = np.random.default_rng(seed)
    users = [LOWEST, HIGHEST, -1, *range(3, 9)]
    items = [LOWEST, HIGHEST, -7, *range(20, 29)]

    def one(values, *wrong):
        values = [*values, *(wrong if broken and rng.random() < 0.3 else ())]
        return values[rng.integers(len(values))]

    def value():
        return one(range(5), None)

    def items_of_user():
        length = int(rng.integers(4))
        lists = [
            [one(items, 0, None) for _ in range(length)],
            *([value() for _ in range(length)] for _ in layout.lists[1:]),
        ]
        if broken and rng.random() < 0.3:
            place = int(rng.integers(len(lists)))
            lists[place] = one([None, [3] * (length + 1)])
        return dict(zip(layout.lists, lists, strict=True))

    def samples():
        return [
            {
                layout.user_key: one(users, 0, None, 99),
                layout.item_key: one(items, 0, None, 99),
                layout.label: one([0, 1], 2, -1, None),
            }
            for _ in range(70)
        ]

    def user_rows():
        known = rng.permutation(users).tolist()
        extra = [one(users, 0, None) for _ in range(9)] if broken else []
        return [
            {
                layout.user_key: user,
                **{column: value() for column in layout.user.values()},
                **items_of_user(),
            }
            for user in [*known, *extra]
        ]

    extra = [*items[:3], 0, None] if broken else []
    return {
        "train_samples": samples(),
        "test_samples": samples(),
        "train_user_features": user_rows(),
        "test_user_features": user_rows(),
        "item_features": [
            {
                layout.item_key: item,
                **{column: value() for column in layout.item.values()},
            }
            for item in [*items, *extra]
        ],
        "scl_embedding_int8_p90": [
            {layout.item_key: item, layout.vectors: [1] * 128}
            for item in items[2:]
        ],
    }


def write(folder: pathlib.Path, layout: Layout, tables: dict) -> None:
    """Writes Parquet, columns in no order, one of them unread, and YAML."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "schema.yaml").write_text(layout.text, encoding="utf-8")
    for name, rows in tables.items():
        columns = {
            column: pa.array(
                [row[column] for row in rows], TYPES.get(column, pa.int64())
            )
            for column in sorted(layout.columns(name))
        }
        columns["remark"] = pa.array(["none"] * len(rows))
        path = folder / f"{name}.parquet"
        pq.write_table(pa.table(columns), path, row_group_size=16)


def known(row: dict) -> dict:
    """Returns a row with 0 for what is missing."""
    return {name: 0 if v is None else v for name, v in row.items()}


def join(layout: Layout, tables: dict, max_candidates: int):
    """Returns Examples by split, rejected rows and counts, row by row.

    Examples are ``{feature: [ints]}``, rejected rows ``(table, reason, row)``.
    """
    counts: collections.Counter = collections.Counter()
    rejected = []
    user_key, item_key = layout.user_key, layout.item_key

    def usable(table, row, reasons):
        counts[f"read/{table}"] += 1
        reason = next((why for why, found in reasons if found()), None)
        if reason:
            reject(table, reason, row)
        return not reason

    def reject(table, reason, row):
        counts[f"rejected/{table}/{reason}"] += 1
        row = known(row) if reason.startswith("duplicate") else row
        rejected.append((table, reason, row))

    def of_ids(row, *keys):
        return [
            ("null", lambda: None in [row[key] for key in keys]),
            ("id is 0 (missing)", lambda: 0 in [row[key] for key in keys]),
        ]

    items: dict = {}
    for row in tables["item_features"]:
        rules = [
            *of_ids(row, item_key),
            ("duplicate item row", lambda r=row: r[item_key] in items),
        ]
        if usable("item_features", row, rules):
            items[row[item_key]] = known(row)
    embedded = {row[item_key] for row in tables["scl_embedding_int8_p90"]}
    counts["read/embedding_ids"] = len(embedded)

    users: dict = {}
    for split, prefix in SPLITS.items():
        mine = users[split] = {}
        for row in tables[f"{prefix}_user_features"]:
            lists = [row[column] for column in layout.lists]
            null = None in lists or any(None in one for one in lists if one)
            rules = [
                ("null", lambda null=null: null),
                *of_ids(row, user_key),
                (
                    "lists of a history of unequal length",
                    lambda lists=lists: len({len(one) for one in lists}) > 1,
                ),
                (
                    "duplicate user row",
                    lambda r=row, mine=mine: r[user_key] in mine,
                ),
            ]
            if usable(f"{split}_user_features", row, rules):
                mine[row[user_key]] = known(row)

    good: dict = {split: [] for split in SPLITS}
    popularity: collections.Counter = collections.Counter()
    for split, prefix in SPLITS.items():
        for row in tables[f"{prefix}_samples"]:
            label = row[layout.label]
            rules = [
                ("null", lambda label=label: label is None),
                *of_ids(row, user_key, item_key),
                (
                    "label is not 0 or 1",
                    lambda label=label: label not in (0, 1),
                ),
                ("no item row", lambda r=row: r[item_key] not in items),
            ]
            if not usable(f"{split}_samples", row, rules):
                continue
            popularity[row[item_key]] += split == "train"
            if row[item_key] not in embedded:
                counts["joined/candidates_without_embedding"] += 1
            if row[user_key] in users[split]:
                counts[f"joined/{split}_impressions"] += 1
                good[split].append(row)
            else:
                reject(f"{split}_samples", "no user row", row)

    examples: dict = {}
    for split, rows in good.items():
        shown = collections.defaultdict(list)
        for row in rows:
            shown[row[user_key]].append(row)
        examples[split] = [
            _example(
                layout,
                users[split][user],
                mine[start : start + max_candidates],
                items,
                popularity,
            )
            for user, mine in shown.items()
            for start in range(0, len(mine), max_candidates)
        ]
        counts[f"joined/{split}_requests"] = len(examples[split])
    return examples, rejected, dict(+counts)


def _example(layout, user, shown, items, popularity):
    ids = [row[layout.item_key] for row in shown]
    return {
        "user_id": [user[layout.user_key]],
        **{f"user_{f}": [user[column]] for f, column in layout.user.items()},
        "behavior_item_ids": user[layout.history],
        **{
            f"behavior_{f}": user[column]
            if column
            else [
                items.get(item, {}).get(layout.item[f], 0)
                for item in user[layout.history]
            ]
            for f, column in layout.behavior.items()
        },
        "candidate_item_ids": ids,
        **{
            f"candidate_{f}": [items[item][column] for item in ids]
            for f, column in layout.item.items()
        },
        "candidate_popularity": [popularity[item] for item in ids],
        "clicks": [row[layout.label] for row in shown],
    }
