"""100,000 item ids to rows of a table of 35 million ids, in a SavedModel.

Ours is `MultimodalEmbeddingTable.lookup`, exported, loaded and called as the
model server does it (`Servable.run`): NumPy ids in, NumPy rows out. The peers
are in the same SavedModel over the same sorted ids: `tf.searchsorted`, and
the same with the ids sorted first, which makes its search kinder to caches.
`numpy.searchsorted` (one thread) is there for information. A tenth of the ids
asked for is unknown; every run asks for others. `lookup` with fresh items is
ours in a table with 4,096 spare rows, all taken: its ratio is what they cost.

They agree when every row is NumPy's answer, for every run's ids and for the
ends of int64, 0 and ids next to known ones. The floor is three cache lines
(pilot, slot, id) of 64 bytes per id at the memory's speed; what remains above
it is latency, which only as many misses in flight can hide.
"""

from __future__ import annotations

import pathlib
import tempfile
import time
import types
from collections.abc import Callable
from typing import Any

from benchmarks import harness

IDS = 100_000
KNOWN = 0.9
BYTES_PER_SECOND = 28e9
CACHE_LINES = 3
FRESH_ITEMS = 4096
# Signature of each peer.
PEERS = {
    f"lookup with {FRESH_ITEMS:,} fresh items": "with_fresh_items",
    "tf.searchsorted": "searchsorted",
    "tf.argsort + tf.searchsorted": "presorted",
}


def main() -> None:
    """Time the lookup of ids in the item table against its peers."""
    arguments = harness.parser(__doc__).parse_args()
    harness.pin(arguments.threads)
    report = harness.Report("lookup", arguments)
    num_items = 1_000_000 if arguments.quick else 35_000_000

    import numpy as np

    from serving.model_server.servable import Servable, SessionOptions

    generator = np.random.default_rng(0)
    harness.say(f"lookup: {num_items:,} ids")
    item_ids = _unique_ids(generator, num_items)
    with tempfile.TemporaryDirectory() as folder:
        index = _export(folder, item_ids)
        threads = arguments.threads
        servable = Servable(
            "lookup", 1, folder, SessionOptions(threads, threads)
        )
        asked = [
            _queries(generator, item_ids)
            for _ in range(harness.RUNS + harness.WARMUP)
        ]
        edges = _edges(item_ids)
        calls: dict[str, Callable[[Any], Any]] = {
            name: _signature(servable, signature)
            for name, signature in (("ours", "ours"), *PEERS.items())
        }
        calls["numpy.searchsorted"] = lambda ids: _expected(item_ids, ids)
        found: dict[str, list[Any]] = {name: [] for name in calls}

        def measured(name: str) -> harness.Timed:
            def call() -> float:
                ids = asked[len(found[name])]
                start = time.perf_counter()
                rows = calls[name](ids)
                spent = time.perf_counter() - start
                found[name].append(rows)
                return 1e3 * spent

            return call

        medians = harness.alternate({name: measured(name) for name in calls})
        for name in calls:
            asked_here, rows = [*asked, edges], [*found[name]]
            rows.append(calls[name](edges))
            found[name] = [
                bool(np.array_equal(_expected(item_ids, ids), got))
                for ids, got in zip(asked_here, rows, strict=True)
            ]
    ours = medians.pop("ours")
    report.add(
        f"{IDS:,} ids of {num_items:,}",
        ours,
        medians,
        agree={
            name: all(found["ours"]) and all(found[name]) for name in medians
        },
        agree_by="every row equals numpy.searchsorted's, every run and the "
        "ends of int64",
        floor_ms=1e3 * IDS * CACHE_LINES * 64 / BYTES_PER_SECOND,
    )
    report.fact(f"index of {num_items:,} ids", **index)
    report.close()


def _export(folder: str, item_ids: Any) -> dict[str, float]:
    """Save ours and the peers as signatures; return facts of the index."""
    import numpy as np
    import tensorflow as tf

    from muse_keras.tables import MultimodalEmbeddingTable
    from muse_keras.tables.hash_index import build_hash_index

    harness.say("lookup: building the index")
    start = time.perf_counter()
    index = build_hash_index(item_ids)
    seconds = time.perf_counter() - start
    size = index.pilots.nbytes + index.slots.nbytes
    del index

    # As much of an `ItemTable` as a lookup needs.
    ids_alone = types.SimpleNamespace(
        item_ids=item_ids,
        num_items=len(item_ids),
        dim=1,
        codes=np.zeros((len(item_ids) + 1, 1), np.int8),
        inverse_norms=lambda: np.zeros(len(item_ids) + 1, np.float32),
    )
    table = MultimodalEmbeddingTable(len(item_ids), 1, FRESH_ITEMS)
    table.assign(ids_alone)
    # New to the table, and never asked for.
    fresh = np.setdiff1d(item_ids[: 2 * FRESH_ITEMS] + 2, item_ids)
    table.publish_slots(
        tf.range(FRESH_ITEMS, dtype=tf.int64), tf.constant(fresh[:FRESH_ITEMS])
    )
    sorted_ids = table.item_ids.value

    def searchsorted(ids: tf.Tensor) -> tf.Tensor:
        index = tf.searchsorted(sorted_ids, ids, out_type=tf.int64)
        index = tf.minimum(index, len(item_ids) - 1)
        found = tf.equal(tf.gather(sorted_ids, index), ids)
        found = tf.logical_and(found, tf.not_equal(ids, 0))
        rows = tf.where(found, index + 1, tf.zeros_like(index))
        return tf.cast(rows, tf.int32)

    def presorted(ids: tf.Tensor) -> tf.Tensor:
        order = tf.argsort(ids)
        rows = searchsorted(tf.gather(ids, order))
        return tf.scatter_nd(order[:, tf.newaxis], rows, tf.shape(ids))

    module = tf.Module()
    module.variables_to_save = [v.value for v in table.variables]
    functions = {
        "ours": table.lookup_known,
        "with_fresh_items": table.lookup,
        "searchsorted": searchsorted,
        "presorted": presorted,
    }
    spec = tf.TensorSpec([None], tf.int64, name="ids")
    signatures = {
        name: tf.function(
            lambda ids, function=function: {"rows": function(ids)},
            autograph=False,
        ).get_concrete_function(spec)
        for name, function in functions.items()
    }
    harness.say("lookup: saving")
    tf.saved_model.save(module, folder, signatures=signatures)
    return {
        "build_s": round(seconds, 2),
        "index_bytes": size,
        "index_bytes_per_id": round(size / len(item_ids), 2),
        "saved_bytes": sum(
            file.stat().st_size
            for file in pathlib.Path(folder).rglob("*")
            if file.is_file()
        ),
    }


def _signature(servable: Any, name: str) -> Callable[[Any], Any]:
    """Return a call of one signature, as the server makes it."""
    signature = servable.signatures[name]
    feed = signature.inputs["ids"].name
    fetch = signature.outputs["rows"].name
    return lambda ids: servable.run({feed: ids}, [fetch])[0]


def _unique_ids(generator: Any, count: int) -> Any:
    """Return `count` sorted unique random int64, without 0."""
    import numpy as np

    ends = np.iinfo(np.int64)
    ids = np.sort(generator.integers(ends.min, ends.max, count))
    ids[0], ids[-1] = ends.min, ends.max
    for repeated in np.flatnonzero(ids[1:] == ids[:-1]):
        raise ValueError(f"repeated id {ids[repeated]}: take another seed.")
    return ids


def _queries(generator: Any, item_ids: Any) -> Any:
    """Return ids of which a tenth is unknown, in random order."""
    import numpy as np

    known = item_ids[generator.integers(0, len(item_ids), IDS)]
    ends = np.iinfo(np.int64)
    strangers = generator.integers(ends.min, ends.max, IDS)
    return np.where(generator.random(IDS) < KNOWN, known, strangers)


def _edges(item_ids: Any) -> Any:
    """Return the ends of int64, 0, and the neighbors of known ids."""
    import numpy as np

    ends = np.iinfo(np.int64)
    some = item_ids[1:-1][:1000]
    special = [0, 1, -1, ends.min, ends.min + 1, ends.max, ends.max - 1]
    return np.concatenate([special, some, some + 1, some - 1])


def _expected(item_ids: Any, ids: Any) -> Any:
    """Return the rows by `numpy.searchsorted`."""
    import numpy as np

    index = np.searchsorted(item_ids, ids)
    index = np.minimum(index, len(item_ids) - 1)
    found = (item_ids[index] == ids) & (ids != 0)
    return np.where(found, index + 1, 0).astype(np.int32)


if __name__ == "__main__":
    main()
