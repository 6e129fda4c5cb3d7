"""Rejects rows of the search tables that cannot be used, with a reason.

As in `validation`, every row is accepted or rejected exactly once; its reason
is the first rule that it breaks, in the order of `REASONS`. In a row, some
modalities may be missing (null, an empty list, a blank text), but not all.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from muse_tools.datasets import search_tables, validation
from muse_tools.datasets.arrow_lists import (
    Ints,
    list_array,
    list_lengths,
    list_offsets,
    list_values,
    values_of,
    with_column,
)
from muse_tools.datasets.search_tables import SearchTable
from muse_tools.datasets.validation import (
    WRONG_DIMENSION,
    ZERO_VECTOR,
    Validated,
)

NOT_FINITE = "vector with NaN or infinity"
NO_CONTENT = "no vector and no text"
UNKNOWN_PURCHASE = "purchased item without content"

REASONS = (
    validation.NULL,
    validation.MISSING_ID,
    WRONG_DIMENSION,
    NOT_FINITE,
    ZERO_VECTOR,
    NO_CONTENT,
    validation.DUPLICATE_ITEM,
    UNKNOWN_PURCHASE,
)
"""Every reason of the search tables, in order of precedence."""


# Columns of ids, and other columns that may not be null.
_KEYS = {
    search_tables.ITEM_CONTENT: ((search_tables.ITEM_ID,), ()),
    search_tables.SEARCH_EVENTS: (
        (search_tables.QUERY_ID, search_tables.PURCHASED_ITEM_ID),
        (search_tables.TIME, search_tables.CLICKED_ITEM_IDS),
    ),
}


def validate(
    table: SearchTable, widths: Mapping[str, int], batch: pa.RecordBatch
) -> Validated:
    """Checks the ids, vectors and texts of each row.

    A null or empty vector is missing; a null inside a vector is an error.
    """
    broken = validation.check_ids(batch, *_KEYS[table.name])
    nulls = broken[0].rows
    wrong, infinite, zero, present = np.zeros((4, batch.num_rows), bool)
    for modality, name in table.vectors.items():
        column, width = batch[name], widths[modality]
        lengths = list_lengths(column)
        fitting = lengths == width
        present |= lengths > 0
        wrong |= (lengths > 0) & ~fitting
        values = column.flatten()
        if values.null_count:
            parents = np.repeat(np.arange(len(column)), lengths)
            nulls[parents[values_of(values.is_null())]] = True
            fitting &= ~nulls
        if fitting.any():
            vectors = search_tables.vectors(
                column.filter(pa.array(fitting)), width
            )
            largest = np.abs(vectors).max(axis=1)
            infinite[fitting] |= ~np.isfinite(largest)
            zero[fitting] |= largest == 0
    if table.text:
        trimmed = pc.utf8_trim_whitespace(pc.fill_null(batch[table.text], ""))
        lengths = values_of(pc.utf8_length(trimmed))
        present |= lengths > 0
    return validation.split_rows(
        batch,
        [
            *broken,
            validation.Broken(WRONG_DIMENSION, wrong),
            validation.Broken(NOT_FINITE, infinite),
            validation.Broken(ZERO_VECTOR, zero),
            validation.Broken(NO_CONTENT, ~present),
        ],
    )


def drop_empty(
    batch: pa.RecordBatch, features: Mapping[str, npt.NDArray[np.float32]]
) -> tuple[pa.RecordBatch, pa.RecordBatch, dict[str, npt.NDArray[np.float32]]]:
    """Rejects rows whose vectors are all zero, as after a text without words.

    Returns the good rows, the rejected ones, and the vectors of the good rows.
    """
    present = np.zeros(batch.num_rows, bool)
    for values in features.values():
        present |= np.any(values, axis=1)
    good, bad = validation.split_rows(
        batch, [validation.Broken(NO_CONTENT, ~present)]
    )
    if bad.num_rows:
        features = {k: values[present] for k, values in features.items()}
    return good, bad, dict(features)


def clean_clicks(
    batch: pa.RecordBatch, known_items: Ints
) -> tuple[pa.RecordBatch, dict[str, int]]:
    """Removes clicks that are not negatives.

    These are padding (id 0), the purchased item, items without content, and
    items clicked before in the same event; the first of these is the reason.
    Returns the events, and the number of removed clicks by reason.
    """
    column = batch[search_tables.CLICKED_ITEM_IDS]
    clicked = list_values(column).astype(np.int64, copy=False)
    offsets = list_offsets(column)
    event = np.repeat(np.arange(len(column)), np.diff(offsets))
    bought = values_of(batch[search_tables.PURCHASED_ITEM_ID])[event]
    order = np.lexsort((clicked, event))  # stable
    repeated = np.zeros(len(clicked), bool)
    repeated[order[1:]] = (event[order[1:]] == event[order[:-1]]) & (
        clicked[order[1:]] == clicked[order[:-1]]
    )
    kept = np.ones(len(clicked), bool)
    dropped = {}
    for reason, found in (
        ("padding", clicked == 0),
        ("purchased item", clicked == bought),
        ("item without content", ~validation.contains(known_items, clicked)),
        ("repeated", repeated),
    ):
        dropped[reason] = int((kept & found).sum())
        kept &= ~found
    cleaned = list_array(
        clicked[kept], np.r_[0, np.cumsum(kept)][offsets], pa.int64()
    )
    return (
        with_column(batch, search_tables.CLICKED_ITEM_IDS, cleaned),
        {reason: count for reason, count in dropped.items() if count},
    )
