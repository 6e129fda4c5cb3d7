"""A small model and a small data set to explore."""

from __future__ import annotations

import pathlib

import numpy as np
import pyarrow as pa

from muse_tools.datasets import raw_rows, table_writer
from tests.serving.export import world as export_world

K, MAX_HISTORY = export_world.K, export_world.MAX_HISTORY
LONG, EMPTY, BIG = 7, 8, (1 << 62) + 1
"""Users: a long history, none, and an id that no float holds."""
VOCABULARIES = {
    **{
        f"user_{name}": np.array([5, -6, 7])
        for name in export_world.PRESET["user"]
    },
    "item_category": np.array([11, -12, 13, 14]),
    "item_city": np.array([21, 22, 23]),
    "item_province": np.array([31, -32]),
}


def export_model(folder: pathlib.Path):
    """Exports version 3 of a MUSE with random weights.

    Returns:
        The Keras model and the item table.
    """
    from serving.export import export_saved_model

    table = export_world.make_item_table(folder / "table")
    model = export_world.make_model("muse", table, VOCABULARIES)
    export_saved_model(
        folder / "muse" / "3",
        model=model,
        item_table=table,
        learned=VOCABULARIES,
        max_history=MAX_HISTORY,
    )
    return model, table


def write_data(folder: pathlib.Path, table) -> dict[int, dict[str, list]]:
    """Writes raw tables and names.

    Returns:
        Rows of users by id: `items`, `categories`, `shown` and `clicked`.
    """
    rng = np.random.default_rng(4)
    ids, categories = table.item_ids, table.features["category"]
    users = {}
    for user, length in ((LONG, 12), (EMPTY, 0), (BIG, 3), (71, 5)):
        # Repeats, and one that the model does not know.
        places = rng.integers(0, 25, length)
        items = ids[places].tolist()
        kinds = categories[places + 1].tolist()
        if length > 6:
            items[8], kinds[9] = 12345, 777
        shown = rng.choice(40, 6, replace=False)
        users[user] = {
            "items": items,
            "categories": kinds,
            "shown": ids[shown].tolist(),
            "clicked": rng.integers(0, 2, 6).tolist(),
        }
    raw = folder / "raw"
    raw.mkdir(parents=True)
    order = list(users)
    histories = [np.array(users[u]["items"], np.int64) for u in order]
    rows = raw_rows.user_rows(
        np.array(order),
        [np.full(len(order), 5)] * 5,
        np.concatenate(histories),
        [np.concatenate([users[u]["categories"] for u in order]).astype(int)],
        np.r_[0, np.cumsum([len(one) for one in histories])],
    )
    samples = [
        (user, item, click)
        for user in order
        for item, click in zip(
            users[user]["shown"], users[user]["clicked"], strict=True
        )
    ]
    # An impression that happened twice, the second time with a click.
    samples.append((LONG, users[LONG]["shown"][0], 1))
    users[LONG]["clicked"][0] = 1
    table_writer.write_table(raw / "test_user_features.parquet", rows)
    table_writer.write_table(
        raw / "test_samples.parquet",
        raw_rows.sample_rows(
            *(np.array(c) for c in zip(*samples, strict=True))
        ),
    )
    table_writer.write_table(
        folder / "names.parquet",
        pa.table(
            {
                "item_id": pa.array(ids, pa.int64()),
                "name": [name_of(place) for place in range(len(ids))],
                "category": [f"kind {kind}" for kind in categories[1:]],
            }
        ),
    )
    return users


def name_of(place: int) -> str:
    """Returns the name of the item at a place of the table."""
    return f"<b>Thing</b> {place}" if place % 2 else f"Tea No. {place}"
