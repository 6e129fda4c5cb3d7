"""Steps of the `table` benchmark that run in a process of their own.

Each process does one step, so that its peak memory is that step's.
"""

from __future__ import annotations

import pathlib
import time
from typing import Any

import numpy as np

from benchmarks import harness
from benchmarks.remote import serve

DIM = 128
BLOCK = 1 << 17
VOCABULARY = 1_000
FEATURES = ("category", "city", "province")


def write(folder: str, sizes: dict[str, int]) -> dict[str, dict[str, Any]]:
    """Write item tables of random items, one of each size.

    A smaller table holds some of the items of the largest. Vectors go to a
    file first, as a job that makes them would leave them.

    Args:
        folder: where to write, each table below its name.
        sizes: number of items by name.

    Returns:
        Seconds, bytes and peak memory by name.
    """
    from muse_keras.tables import ItemTable

    root = pathlib.Path(folder)
    generator = np.random.default_rng(0)
    largest = max(sizes.values())
    ends = np.iinfo(np.int64)
    ids = generator.integers(ends.min, ends.max, largest)
    features = {
        name: generator.integers(1, VOCABULARY + 1, largest)
        for name in FEATURES
    }
    raw = root / "codes.npy"
    codes = np.lib.format.open_memmap(raw, "w+", np.int8, (largest, DIM))
    for start in range(0, largest, BLOCK):
        some = codes[start : start + BLOCK]
        some[...] = np.frombuffer(generator.bytes(some.size), np.int8).reshape(
            some.shape
        )
    del codes, some
    codes = np.load(raw, mmap_mode="r")
    facts = {}
    for name, size in sizes.items():
        start_s = time.perf_counter()
        table = ItemTable.write(
            root / name,
            ids[:size],
            codes[:size],
            {key: column[:size] for key, column in features.items()},
            source="benchmark",
        )
        facts[name] = {
            "write_s": round(time.perf_counter() - start_s, 1),
            "table_mb": _mib(
                sum(f["bytes"] for f in table.manifest["files"].values())
            ),
            "codes_mb": _mib(table.codes.nbytes),
            "peak_mb": harness.rss_mb(),
        }
    raw.unlink()
    return facts


def export(table: str, target: str, held: bool) -> dict[str, Any]:
    """Fill a ranker with an item table and export it.

    Its trained item embedding is one wide: what is measured is the table.

    Args:
        table: folder of the item table.
        target: version folder to write.
        held: whether the ranker holds its tables, or they go from files to
            files, as after a training that divided them among workers.

    Returns:
        Seconds, bytes and memory.
    """
    import keras

    from muse_keras.models import MUSE
    from muse_keras.tables import ItemTable
    from muse_keras.tables.row_shards import divided_rows
    from serving.export import export_saved_model

    imported = harness.rss_mb()
    keras.utils.set_random_seed(0)
    items = ItemTable.open(table)
    users = [f"profile_{number}" for number in range(1, 6)]
    start = time.perf_counter()
    rows = items.num_items + 1
    with divided_rows(0 if held else rows, held=held):
        model = MUSE(
            items.num_items,
            dict.fromkeys(users, VOCABULARY + 2),
            dict.fromkeys(FEATURES, VOCABULARY + 2),
            behavior_features=("category",),
            matches=("category",),
            vector_dim=items.dim,
            embedding_dim=1,
        )
    # The same for every item, so that tables of two sizes score alike.
    embeddings = model.item_embedding.embeddings
    eighths = np.broadcast_to(np.float32(1 / 8), (rows, 1))
    if held:
        embeddings.assign(eighths)
    built = time.perf_counter()
    model.table.assign(items)
    assigned = time.perf_counter()
    names = [f"item_{name}" for name in FEATURES]
    names += [f"user_{name}" for name in users]
    exported = export_saved_model(
        target,
        model=model,
        item_table=items,
        learned=dict.fromkeys(names, np.arange(1, VOCABULARY + 1)),
        tables={} if held else {embeddings.path: eighths},
    )
    return {
        "model_s": round(built - start, 1),
        "assign_s": round(assigned - built, 1),
        "export_s": round(time.perf_counter() - assigned, 1),
        "variables_mb": _mib(exported.manifest["total_bytes"]),
        "imported_mb": imported,
        "peak_mb": harness.rss_mb(),
    }


def _mib(size: int) -> int:
    """Return bytes in MiB."""
    return size >> 20


if __name__ == "__main__":
    serve({"write": write, "export": export})
