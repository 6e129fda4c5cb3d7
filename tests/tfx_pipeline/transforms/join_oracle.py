"""The join in plain Python: one row at a time, dictionaries, no Arrow.

Written from DATA.md and the docstrings, as a second opinion.
"""

from __future__ import annotations

import collections
import pathlib

import pyarrow as pa
import pyarrow.parquet as pq

PROFILE = ("130_1", "130_2", "130_3", "130_4", "130_5")
IDS, CATEGORIES = "150_2_180", "151_2_180"
SPLITS = {"train": "train", "eval": "test"}

_INTS = pa.list_(pa.int64())
SCHEMAS = {
    "samples": {
        "label_0": pa.list_(pa.int8()),
        "129_1": pa.int64(),
        "205": pa.int64(),
    },
    "user_features": {
        "129_1": pa.int64(),
        **dict.fromkeys(PROFILE, pa.int64()),
        IDS: _INTS,
        CATEGORIES: _INTS,
    },
    "item_features": dict.fromkeys(("205", "206", "213", "214"), pa.int64()),
    "scl_embedding_int8_p90": {"205": pa.int64(), "205_c": pa.list_(pa.int8())},
}


def user_row(user, items=(), categories=(), profile=(1, 2, 3, 4, 5)):
    return {
        "129_1": user,
        **dict(zip(PROFILE, profile, strict=True)),
        IDS: None if items is None else list(items),
        CATEGORIES: None if categories is None else list(categories),
    }


def sample_row(user, item, label=(1, 0)):
    return {
        "label_0": None if label is None else list(label),
        "129_1": user,
        "205": item,
    }


def item_row(item, category=1, city=2, province=3):
    return {"205": item, "206": category, "213": city, "214": province}


def vector_row(item):
    return {"205": item, "205_c": [1] * 128}


def write(folder: pathlib.Path, tables: dict, rows_per_group: int) -> None:
    """Writes raw tables as Parquet; names as in the published set."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        kind = name.removeprefix("train_").removeprefix("test_")
        columns = {
            code: pa.array([row[code] for row in rows], kind_of_column)
            for code, kind_of_column in SCHEMAS[kind].items()
        }
        pq.write_table(
            pa.table(columns),
            folder / f"{name}.parquet",
            row_group_size=rows_per_group,
        )


def join(tables: dict, max_candidates: int):
    """Returns Examples by split, rejected rows and counters.

    Examples are ``{feature: [ints]}``, rejected rows ``(table, reason, row)``.
    """
    counts: collections.Counter = collections.Counter()
    rejected = []

    def reject(table, reason, row):
        counts[f"rejected/{table}/{reason}"] += 1
        if reason.startswith("duplicate"):  # Rows that were good otherwise.
            row = missing_to_zero(row)
        rejected.append((table, reason, row))

    items = {}
    for row in tables["item_features"]:
        counts["read/item_features"] += 1
        if row["205"] is None:
            reject("item_features", "null", row)
        elif row["205"] == 0:
            reject("item_features", "id is 0 (missing)", row)
        elif row["205"] in items:
            reject("item_features", "duplicate item row", row)
        else:
            items[row["205"]] = missing_to_zero(row)
    embedded = {row["205"] for row in tables["scl_embedding_int8_p90"]}
    counts["read/embedding_ids"] = len(tables["scl_embedding_int8_p90"])

    users = {}
    for split, prefix in SPLITS.items():
        users[split] = {}
        for row in tables[f"{prefix}_user_features"]:
            counts[f"read/{split}_user_features"] += 1
            reason = user_problem(row, users[split])
            if reason:
                reject(f"{split}_user_features", reason, row)
            else:
                users[split][row["129_1"]] = missing_to_zero(row)

    popularity: collections.Counter = collections.Counter()
    with_items = {}
    for split, prefix in SPLITS.items():
        with_items[split] = []
        for row in tables[f"{prefix}_samples"]:
            counts[f"read/{split}_samples"] += 1
            reason = _sample_problem(row, items)
            if reason:
                reject(f"{split}_samples", reason, row)
                continue
            with_items[split].append(row)
            if split == "train":
                popularity[row["205"]] += 1
            if row["205"] not in embedded:
                counts["joined/candidates_without_embedding"] += 1

    examples = {}
    for split, rows in with_items.items():
        groups: dict[int, list[dict]] = {}
        for row in rows:
            if row["129_1"] not in users[split]:
                reject(f"{split}_samples", "no user row", row)
                continue
            counts[f"joined/{split}_impressions"] += 1
            groups.setdefault(row["129_1"], []).append(row)
        examples[split] = []
        for user, shown in groups.items():
            for start in range(0, len(shown), max_candidates):
                examples[split].append(
                    _example(
                        users[split][user],
                        shown[start : start + max_candidates],
                        items,
                        popularity,
                    )
                )
        counts[f"joined/{split}_requests"] = len(examples[split])
    counts = +counts
    return examples, rejected, dict(counts)


def missing_to_zero(row):
    return {name: 0 if v is None else v for name, v in row.items()}


def user_problem(row, seen):
    lists = (row[IDS], row[CATEGORIES])
    if None in (row["129_1"], *lists) or any(None in ids for ids in lists):
        return "null"
    if row["129_1"] == 0:
        return "id is 0 (missing)"
    if len(row[IDS]) != len(row[CATEGORIES]):
        return "behavior and category lists of unequal length"
    return "duplicate user row" if row["129_1"] in seen else None


def _sample_problem(row, items):
    if None in row.values() or None in row["label_0"]:
        return "null"
    if 0 in (row["129_1"], row["205"]):
        return "id is 0 (missing)"
    if row["label_0"] not in ([0, 1], [1, 0]):
        return "label not one-hot"
    return None if row["205"] in items else "no item row"


def _example(user, shown, items, popularity):
    chosen = [items[row["205"]] for row in shown]
    return {
        "user_id": [user["129_1"]],
        **{
            f"user_profile_{i + 1}": [user[code]]
            for i, code in enumerate(PROFILE)
        },
        "behavior_item_ids": user[IDS],
        "behavior_category": user[CATEGORIES],
        "candidate_item_ids": [row["205"] for row in shown],
        "candidate_category": [item["206"] for item in chosen],
        "candidate_city": [item["213"] for item in chosen],
        "candidate_province": [item["214"] for item in chosen],
        "candidate_popularity": [popularity[row["205"]] for row in shown],
        "clicks": [row["label_0"][1] for row in shown],
    }
