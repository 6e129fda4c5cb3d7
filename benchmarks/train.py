"""Training steps against MUSE as published, one row per impression.

Measured: milliseconds of a training step of 1,001 impressions (91 requests of
11 candidates, 1,000 behaviors each, K = 50), everything included: reading
gzip TFRecord, parsing, shuffling, ids to rows, search, gradients, row-sparse
Adam, the trainer's loop. Ours is the product's own
path, `tfx_pipeline.training.trainer` on transformed Examples.

Peer: the same model in PyTorch over impressions (`peers/torch_train.py`),
with its batches in memory and rows instead of ids. `normalized` has a table
that is normalized once.

Agreement: with the same weights the loss of the first batch is that of the
peer within 5e-5 (a cosine of exactly 0, an edge of SimTier, may round to
either side), and the losses of the next steps, a step on each batch in order,
within 1e-3: gradients and updates agree too. The GSU finds the same items,
with the same cosines within 1e-6, for the first batch.

Other cases: the input pipeline alone; bfloat16 compute; the step with 35
million item rows and its memory. With --quick: one peer, float32, few rows.
Floor: the larger
of the matrix products' flops at the machine's float32 rate, measured here,
and the bytes of the history's codes at its copying rate.
"""

from __future__ import annotations

import pathlib
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import harness, remote
from schemas.ranking_schema import preset

REQUESTS, LENGTH, CANDIDATES, K, DIM = 91, 1_000, 11, 50, 128
IMPRESSIONS = REQUESTS * CANDIDATES
ITEMS = 100_000
SAME_FIRST_LOSS = 5e-5
SAME_LOSS = 1e-3
SAME_COSINE = 1e-6
DECLARED = preset("taobao_mm")
USER = [f"user_{name}" for name in DECLARED.features.user]
VOCABULARIES = {
    **dict.fromkeys(USER, np.arange(1, 101)),
    "item_category": np.arange(1, 1_001),
    "item_city": np.arange(1, 301),
    "item_province": np.arange(1, 35),
}


class Items:
    """An item table made up in memory; rows repeat after 65,536.

    What `MultimodalEmbeddingTable.assign` takes, without the 4.5 GB on disk.
    """

    dim = DIM

    def __init__(self, count: int) -> None:
        """Draw ids and codes."""
        generator = np.random.default_rng(count)
        ids = np.empty(0, np.int64)
        while len(ids) < count:
            more = generator.integers(-(2**63), 2**63, count, np.int64)
            ids = np.union1d(ids, more)
        self.num_items = count
        self.item_ids = np.sort(generator.permutation(ids)[:count])
        self._codes = np.trunc(
            generator.normal(scale=11.0, size=(1 << 16, DIM))
        ).astype(np.int8)
        self._inverse = np.float32(1) / np.linalg.norm(
            self._codes.astype(np.float32), axis=1
        )
        self.codes = _Repeated(self._codes, count + 1)

    def inverse_norms(self) -> Any:
        """Return one over the norm of each row of codes."""
        return _Repeated(self._inverse, self.num_items + 1)


class _Repeated:
    """Rows of a block again and again, but row 0, which is zero."""

    def __init__(self, block: np.ndarray, count: int) -> None:
        self._block = block
        self.shape = (count, *block.shape[1:])

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> np.ndarray:
        wanted = np.arange(*rows.indices(self.shape[0]))
        values = self._block[wanted % len(self._block)]
        values[wanted == 0] = 0
        return values


def main() -> None:
    """Time training steps of each model against its peer."""
    arguments = harness.parser(__doc__).parse_args()
    harness.pin(arguments.threads)
    report = harness.Report("train", arguments)
    with tempfile.TemporaryDirectory() as folder:
        root = pathlib.Path(folder)
        _against_peers(report, root, arguments.quick)
        if not arguments.quick:
            _scale(report, root, 35_000_000)
    report.close()


def _against_peers(
    report: harness.Report, root: pathlib.Path, quick: bool
) -> None:
    """Compare with PyTorch and bfloat16 with float32; time the input alone."""
    batches = 2 if quick else 12
    peers = ("torch",) if quick else ("torch", "torch, normalized")
    items = Items(ITEMS)
    ours = _Ours(items, root / "100k", batches)
    ours.hand_over(root / "peer")
    losses = ours.losses()
    with remote.Remote(
        "benchmarks.peers.torch_train", remote.BACKENDS
    ) as torch:
        agree = {}
        for name in peers:
            harness.say(f"train: preparing {name}")
            theirs = torch.call(
                "prepare",
                peer=name,
                folder=str(root / "peer"),
                prenormalized=name != "torch",
                **ours.settings,
            )
            torch.call("neighbors", peer=name, path=str(root / "found.npz"))
            agree[name] = _same_losses(losses, theirs) and ours.finds(
                root / "found.npz"
            )
        half = (
            None if quick else _Ours(items, root / "100k", batches, "bfloat16")
        )
        half_losses = half.losses() if half else []
        harness.say("train: measuring")
        times = harness.alternate(
            {
                "ours": ours.whole_steps,
                **({"bfloat16": half.whole_steps} if half else {}),
                "input": ours.input_alone,
                "step": ours.step_alone,
                **{
                    name: torch.timed("train", peer=name, steps=1)
                    for name in agree
                },
            }
        )
    report.add(
        f"step with input, {IMPRESSIONS:,} impressions",
        times["ours"],
        {name: times[name] for name in agree},
        agree=agree,
        agree_by=f"first loss within {SAME_FIRST_LOSS}, losses of {batches} "
        f"steps within {SAME_LOSS}, the same items found",
        floor_ms=_floor_ms(),
    )
    if half:
        report.add(
            "step with input, bfloat16 against float32",
            times["bfloat16"],
            {"float32": times["ours"]},
            agree=bool(np.abs(np.subtract(losses, half_losses)).max() < 1e-2),
            agree_by="bfloat16: losses within 0.01",
        )
    report.fact(
        "throughput",
        impressions_per_second=round(1e3 * IMPRESSIONS / times["ours"]),
        ms_per_1000_impressions=round(1e3 * times["ours"] / IMPRESSIONS, 2),
        torch_impressions_per_second=round(1e3 * IMPRESSIONS / times["torch"]),
    )
    report.fact(
        "input pipeline alone",
        input_ms=round(times["input"], 2),
        step_ms=round(times["step"], 2),
        step_over_input=round(times["step"] / times["input"], 2),
    )


def _scale(report: harness.Report, root: pathlib.Path, count: int) -> None:
    """Compare the step with few item rows and with many."""
    small = _Ours(Items(ITEMS), root / "100k", 4)
    harness.say(f"train: making a table of {count:,} rows")
    items = Items(count)
    before = _memory_mb("VmRSS")
    # Forget the peak so far.
    pathlib.Path("/proc/self/clear_refs").write_text("5")
    large = _Ours(items, root / "large", 4)
    times = harness.alternate(
        {"small": small.step_alone, "large": large.step_alone}
    )
    losses = large.losses()
    report.add(
        f"step, {count:,} item rows against {ITEMS:,}",
        times["large"],
        {f"{ITEMS:,} rows": times["small"]},
        agree=bool(np.isfinite(losses).all()),
        agree_by="rows: losses finite",
    )
    variables = [*large.model.variables, *large.optimizer.variables]
    needed = sum(
        float(np.prod(v.shape)) * np.dtype(v.dtype).itemsize for v in variables
    )
    peak = _memory_mb("VmHWM") - before
    report.fact(
        f"memory, {count:,} item rows",
        weights_and_slots_mb=round(needed / 2**20),
        peak_mb=peak,
        more_mb=round(peak - needed / 2**20),
        step_ratio=round(times["large"] / times["small"], 2),
    )


class _Ours:
    """The product's trainer over written Examples."""

    def __init__(
        self,
        items: Items,
        folder: pathlib.Path,
        batches: int,
        compute_dtype: str = "float32",
    ) -> None:
        import keras
        import tensorflow as tf

        from muse_keras.optimizers import RowSparseAdam
        from tfx_pipeline import config
        from tfx_pipeline.training import trainer

        self.batches = batches
        if not folder.exists():
            _write_examples(folder, items, batches)
        self._files = [str(folder / "*.gz")]
        self._config = config.TrainerConfig(
            batch_requests=REQUESTS, compute_dtype=compute_dtype
        )
        keras.utils.set_random_seed(1)
        # The peer has no drop-out of ids, which comes of another generator.
        self.model = trainer.build_model(
            config.ModelConfig(k=K, oov_rate=0.0),
            items,
            DECLARED,
            VOCABULARIES,
            compute_dtype,
        )
        self.optimizer = RowSparseAdam()
        trainer.compile_model(
            self.model, self.optimizer, tf.distribute.get_strategy()
        )
        dataset = trainer.training_dataset(
            self._files, _spec(), self._config, DECLARED
        )
        self._data = dataset
        self._first = [
            batch for batch, _ in zip(dataset, range(batches), strict=False)
        ]

    @property
    def settings(self) -> dict[str, Any]:
        """Return what the peer must know."""
        return {
            "k": K,
            "recent": self.model.recent,
            "num_tiers": self.model.num_tiers,
            "user_sizes": list(self.model.user_sizes.values()),
            "sparse": True,
        }

    def losses(self) -> list[float]:
        """Train for a step on each batch; return the losses."""
        losses = []
        for batch in self._first:
            self.model.reset_metrics()
            losses.append(float(self._step(batch)["loss"]))
        return losses

    def whole_steps(self) -> float:
        """Return the milliseconds per step of a pass over the files."""
        return self._pass(lambda batch: float(self._step(batch)["loss"]))

    def step_alone(self) -> float:
        """Return the milliseconds of a step on a batch at hand."""
        taken = []
        for batch in self._first:
            start = time.perf_counter()
            float(self._step(batch)["loss"])
            taken.append(1e3 * (time.perf_counter() - start))
        return statistics.median(taken)

    def input_alone(self) -> float:
        """Return the milliseconds per batch of reading the files."""
        return self._pass(lambda batch: None)

    def _pass(self, use: Callable[[Any], Any]) -> float:
        """Return the milliseconds per batch of a pass over the files.

        Without the end of the iterator, once per training: TensorFlow may
        wait 0.3 s there for a thread that sleeps.
        """
        start = time.perf_counter()
        batches = iter(self._data)
        for batch in batches:
            use(batch)
        return 1e3 * (time.perf_counter() - start) / self.batches

    def hand_over(self, folder: pathlib.Path) -> None:
        """Write weights and batches, impression by impression."""
        folder.mkdir()
        np.savez(
            folder / "weights.npz",
            **{
                weight.path: np.asarray(weight)
                for weight in self.model.weights
                if weight.trainable or weight.path == "table/codes"
            },
        )
        for number, batch in enumerate(self._first):
            np.savez(
                folder / f"batch_{number:03}.npz",
                **self._impressions(*batch),
            )

    def finds(self, path: pathlib.Path) -> bool:
        """Tell whether the GSU finds what a peer found in the first batch."""
        inputs = self._first[0][0]
        rows, codes = self.model.table(inputs["behavior_item_ids"])
        _, candidates = self.model.table(inputs["candidate_item_ids"])
        found = self.model.search.top_k(
            candidates, codes, inputs["behavior_mask"]
        )
        similarities = np.asarray(found.similarities).reshape(-1, K)
        items = np.take_along_axis(
            np.repeat(np.asarray(rows), CANDIDATES, axis=0),
            np.asarray(found.indices).reshape(-1, K),
            axis=1,
        )
        with np.load(path) as theirs:
            same = np.abs(similarities - theirs["similarities"]).max()
            # Equal cosines may stand in any order, and the last of them be
            # cut off: what is clearly above the last is the same set.
            clear = theirs["similarities"] > similarities[:, -1:] + SAME_COSINE
            mine, other = (
                np.sort(np.where(clear, values, 0), axis=1)
                for values in (items, theirs["rows"])
            )
        return bool(same < SAME_COSINE and (mine == other).all())

    def _step(self, batch: Any) -> dict[str, Any]:
        """Run the compiled train step on a batch."""
        from tfx_pipeline.training import loop

        if not hasattr(self, "_compiled"):
            self._compiled = loop.compiled_step(
                self.model, self._data.element_spec, lambda batch: batch
            )
        return self._compiled(batch)

    def _impressions(
        self, inputs: dict[str, Any], clicks: Any, _: Any
    ) -> dict[str, np.ndarray]:
        """Return a batch with one row per impression."""
        given = {name: np.asarray(value) for name, value in inputs.items()}
        rows = {
            kind: np.asarray(self.model.table.lookup(given[f"{kind}_item_ids"]))
            for kind in ("behavior", "candidate")
        }
        each = {
            "history": rows["behavior"],
            "history_categories": given["behavior_features"][:, :, 0],
            "history_mask": given["behavior_mask"],
            "user": given["user_features"],
        }
        own = {
            "item": rows["candidate"],
            **{
                name: given["candidate_features"][:, :, place]
                for place, name in enumerate(self.model.item_sizes)
            },
            "matches": given["candidate_matches"][:, :, 0],
            "click": np.asarray(clicks),
        }
        wide = {
            name: np.repeat(value, CANDIDATES, axis=0)
            for name, value in each.items()
        } | {name: value.reshape(-1) for name, value in own.items()}
        return {
            name: value.astype(np.int64) if value.dtype == np.int32 else value
            for name, value in wide.items()
        }


def _same_losses(ours: list[float], theirs: list[float]) -> bool:
    """Tell whether two trainings have the same losses."""
    apart = np.abs(np.subtract(ours, theirs))
    return bool(apart[0] < SAME_FIRST_LOSS and apart.max() < SAME_LOSS)


def _spec() -> dict[str, Any]:
    """Return the spec of the transformed Examples."""
    import tensorflow as tf

    lists = {
        "user_id": tf.int64,
        "behavior_item_ids": tf.int64,
        "behavior_category": tf.int64,
        "candidate_item_ids": tf.int64,
        "candidate_category": tf.int64,
        "candidate_city": tf.int64,
        "candidate_province": tf.int64,
        "candidate_category_matches": tf.float32,
        "clicks": tf.int64,
    }
    return {
        **dict.fromkeys(USER, tf.io.FixedLenFeature([1], tf.int64)),
        **{name: tf.io.VarLenFeature(dtype) for name, dtype in lists.items()},
    }


def _write_examples(folder: pathlib.Path, items: Items, batches: int) -> None:
    """Write transformed Examples in four gzip TFRecord files.

    Popularity is log-uniform (Zipf's law), so that histories repeat items; a
    tenth of the behaviors is not in the table.
    """
    import tensorflow as tf

    folder.mkdir(parents=True)
    draw = np.random.default_rng(5)
    count = items.num_items

    def popular(size: int) -> np.ndarray:
        rank = np.power(count, draw.random(size)).astype(np.int64)
        # Popular items lie anywhere in the table.
        return rank * 7_919_999 % count

    writers = [
        tf.io.TFRecordWriter(str(folder / f"part-{number}.gz"), options="GZIP")
        for number in range(4)
    ]
    for user in range(batches * REQUESTS):
        behaviors, candidates = popular(LENGTH), popular(CANDIDATES)
        known = draw.random(LENGTH) > 0.1
        unknown = draw.integers(1, 2**62, LENGTH)
        values = {
            "user_id": [user + 1],
            **{name: draw.integers(1, 101, 1) for name in USER},
            "behavior_item_ids": np.where(
                known, items.item_ids[behaviors], unknown
            ),
            "behavior_category": 1 + behaviors % 1_000,
            "candidate_item_ids": items.item_ids[candidates],
            "candidate_category": 1 + candidates % 1_000,
            "candidate_city": draw.integers(1, 301, CANDIDATES),
            "candidate_province": draw.integers(1, 35, CANDIDATES),
            "clicks": draw.random(CANDIDATES) < 0.14,
        }
        example = tf.train.Example()
        for name, value in values.items():
            example.features.feature[name].int64_list.value.extend(
                np.asarray(value, np.int64).tolist()
            )
        matches = draw.integers(0, 50, CANDIDATES).astype(float)
        example.features.feature[
            "candidate_category_matches"
        ].float_list.value.extend(matches.tolist())
        writers[user % 4].write(example.SerializeToString())
    for writer in writers:
        writer.close()


def _floor_ms() -> float:
    """Return the milliseconds that a step needs at least on this machine."""
    size = 1_024
    left = np.ones((size, size), np.float32)
    product_ms = _best(lambda: left @ left)
    rate = 2 * size**3 / product_ms
    copied = np.ones(1 << 26, np.int8)
    bandwidth = copied.size / _best(lambda: copied.copy())
    search = REQUESTS * CANDIDATES * LENGTH * DIM
    # Keys and values of what was found; forwards, and twice backwards.
    attention = 3 * IMPRESSIONS * K * 32 * 64
    tower = 3 * IMPRESSIONS * (281 * 256 + 256 * 128 + 128 * 64)
    flops = 2 * (search + attention + tower)
    return max(flops / rate, REQUESTS * LENGTH * DIM / bandwidth)


def _best(call: Callable[[], Any]) -> float:
    """Return the fewest milliseconds of some calls."""
    return min(harness.timed(call)() for _ in range(10))


def _memory_mb(name: str) -> int:
    """Return a size of this process from `/proc`, in MiB."""
    status = pathlib.Path("/proc/self/status").read_text()
    (line,) = (row for row in status.splitlines() if row.startswith(name))
    return int(line.split()[1]) // 1024


if __name__ == "__main__":
    main()
