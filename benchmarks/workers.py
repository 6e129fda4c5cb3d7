"""What workers exchange in a training step, in bytes, and its CPU time.

Workers are processes of this machine that train through the product's own
loop on shares of the same batches: 88 requests of 11 candidates with 1,000
behaviors each, popular items more often. Exchanges: `rows`, that of
`RowSparseAdam`, sends the rows of tables that a step touched, each once;
`divided` has the rows of the table of items divided among the workers; `dense`
sends gradients of whole tables, as Keras's optimizers would.

Measured per worker and step, without the first step, in which the graph is
made: bytes sent and received by its TCP connections, as Linux counts them,
and CPU time. Also the bytes of tables and their moments that each holds. No
peer; wall time on one machine says nothing about several.

    python -m benchmarks.workers [--quick] [--chart OUT.svg]
"""

from __future__ import annotations

import json
import os
import pathlib
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import Any

from benchmarks import harness, plots

REQUESTS, SHARDS = 88, 4
COUNTS = (1, 2, 4)
EXCHANGES = ("rows", "divided", "dense")


def main() -> None:
    """Train with each number of workers and each exchange."""
    parser = harness.parser(__doc__)
    parser.add_argument("--chart", type=pathlib.Path, help="SVG to write")
    arguments = parser.parse_args()
    harness.pin(arguments.threads)
    from benchmarks import train
    from tfx_pipeline.training import workers

    items, batches = (2_000, 2) if arguments.quick else (100_000, 4)
    report = harness.Report("workers", arguments)
    rows: list[tuple[str, ...]] = [
        ("workers", "exchange", "sent, bytes", "received, bytes", "CPU ms")
        + ("tables, bytes",)
    ]
    measured: dict[str, list[tuple[int, dict[str, int]]]] = {
        exchange: [] for exchange in EXCHANGES
    }
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        train._write_examples(folder / "data", train.Items(items), batches)
        for count in COUNTS:
            for exchange in EXCHANGES if count > 1 else EXCHANGES[:1]:
                harness.say(f"workers: {count}, {exchange}")
                workers.run(
                    workers.local_clusters(count),
                    "benchmarks.workers",
                    ["--worker", str(folder), str(items), exchange],
                )
                found = json.loads((folder / "measured.json").read_text())
                report.fact(
                    "exchange of a step",
                    workers=count,
                    exchange=exchange,
                    item_rows=items,
                    **found,
                )
                measured[exchange].append((count, found))
                rows.append(
                    (
                        str(count),
                        exchange,
                        *(f"{value:,}" for value in found.values()),
                    )
                )
    if not arguments.json:
        harness.print_columns(rows)
    if arguments.chart:
        picture = _picture(measured)
        arguments.chart.write_text(picture, encoding="utf-8")


def _picture(measured: dict[str, list[tuple[int, dict[str, int]]]]) -> str:
    """Return an SVG of what a worker sends and holds, by their number."""

    def curves(fact: str) -> list[plots.Curve]:
        return [
            plots.Curve(
                [(count, found[fact] / 1e3) for count, found in of], color
            )
            for of, color in zip(measured.values(), plots.COLORS, strict=False)
        ]

    return plots.picture(
        "Exchange and memory by number of workers",
        {
            "kB a worker sends in a step, by workers": curves("sent_bytes"),
            "kB of tables it holds, with moments": curves("table_bytes"),
        },
        [*measured],
    )


def work(folder: pathlib.Path, items: int, exchange: str) -> None:
    """Train as one worker; the first one writes what it measured."""
    import keras
    import tensorflow as tf

    from benchmarks import train
    from muse_keras.optimizers import RowSparseAdam
    from muse_keras.tables.row_shards import divided_rows
    from tfx_pipeline import config
    from tfx_pipeline.training import (
        devices,
        input_fn,
        loop,
        trainer,
        workers,
    )

    class Dense(RowSparseAdam):
        """Exchanges whole tables."""

        def apply(self, grads: Any, trainable_variables: Any = None) -> None:
            super().apply(
                [tf.convert_to_tensor(gradient) for gradient in grads],
                trainable_variables,
            )

    class Meter(keras.callbacks.Callback):
        """Measures all steps but the first."""

        def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
            self.batch = batch
            now = (*_traffic(), time.process_time() * 1e3)
            if batch == 0:
                self.first = now
            self.last = now

        def measured(self) -> Iterator[int]:
            for first, last in zip(self.first, self.last, strict=True):
                yield round((last - first) / self.batch)

    strategy = (
        devices.join_workers()
        if workers.cluster(os.environ)
        else tf.distribute.get_strategy()
    )
    keras.utils.set_random_seed(1)
    # No other table has as many rows.
    divided = 1_000 if exchange == "divided" else 0
    with strategy.scope(), divided_rows(divided):
        model = trainer.build_model(
            config.ModelConfig(k=train.K),
            train.Items(items),
            train.DECLARED,
            train.VOCABULARIES,
        )
        optimizer = Dense() if exchange == "dense" else RowSparseAdam()
    trainer.compile_model(model, optimizer, strategy)
    files = [str(folder / "data" / "*")]
    settings = config.TrainerConfig(batch_requests=REQUESTS, shards=SHARDS)
    batches = trainer.training_dataset(
        files,
        train._spec(),
        settings,
        train.DECLARED,
        shards=devices.share(SHARDS, strategy),
    )
    meter = Meter()
    loop.train(model, batches, 5, [meter], input_fn.normalized)
    if devices.place(strategy).index == 0:
        names = ("sent_bytes", "received_bytes", "cpu_ms")
        found = dict(zip(names, meter.measured(), strict=True))
        found["table_bytes"] = sum(
            3 * variable.value.dtype.size * variable.value.shape.num_elements()
            for variable in model.trainable_variables
            if getattr(variable, "row_sparse", False)
        )
        (folder / "measured.json").write_text(json.dumps(found))


def _traffic() -> tuple[int, int]:
    """Return bytes sent and received by this process's TCP connections."""
    sent = received = 0
    for name in os.listdir("/proc/self/fd"):
        try:
            connection = socket.socket(fileno=os.dup(int(name)))
        except OSError:
            continue
        with connection:
            if connection.type != socket.SOCK_STREAM or (
                connection.family not in (socket.AF_INET, socket.AF_INET6)
            ):
                continue
            info = connection.getsockopt(
                socket.IPPROTO_TCP, socket.TCP_INFO, 136
            )
            # tcpi_bytes_acked and tcpi_bytes_received of <linux/tcp.h>.
            acked, arrived = struct.unpack_from("QQ", info, 120)
            sent += acked
            received += arrived
    return sent, received


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(pathlib.Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    else:
        main()
