"""The embedded server: what a call costs besides the model, and under load.

Two exports are served by `serving.local_server`, each from a process of its
own: a MUSE ranker with random weights, and a model with the same signature
and no work in it (`no-op`), on which the server's own time is plain to see.
Requests are large (1,000 candidates, a history of 100,000) and small (100
and 1,000).

Ours is one call of `MuseClient`, by gRPC and by REST. Peers of the same call:
`in-process`, the same graph by the same session inside the benchmark, and
`bytes only`, a server on the same grpc.aio or aiohttp that takes the same
bytes and looks at none of them. All take turns. The overhead is ours minus
in-process; without the transfer, minus bytes only as well. Under 3 ms is
wanted for the large request by gRPC, without the transfer.

The answers agree when the scores by gRPC, by REST and by the session are the
same bits, and those of `tf.saved_model.load`, which optimizes the graph in its
own way, differ by less than 1e-6. `bytes only` is also the floor.

Then one more process makes load (`load/`): users with histories of 1,000,
10,000 and 100,000, who come back the more often the more active they are,
with 1,000 candidates of which few are popular. *Closed loops* ask again when
they are answered; *open loops* ask at random times (Poisson), whatever is
still unanswered, and a call's latency begins at its time. They show

- `bytes only` and the no-op model: what the servers can take;
- `rank`, with the history in each request, against `rank_cached`, with the
  history prefetched earlier;
- retrieval and then `rank`, against the ranking service, which prefetches
  while retrieval works.

Before that, all ways must give the same probabilities within 1e-5. Load,
servers and models share the same cores: each line says how many of them the
process that asks, the server and the service kept busy.

`--part calls` or `--part load` runs one half.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks import harness

LARGE, QUICK_LARGE = (1_000, 100_000), (1_000, 20_000)
SMALL = (100, 1_000)


def main() -> None:
    """Times the servers and the ranking service under load."""
    parser = harness.parser(__doc__)
    parser.add_argument(
        "--part", choices=("calls", "load", "all"), default="all"
    )
    arguments = parser.parse_args()
    harness.pin(arguments.threads)
    report = harness.Report("serve", arguments)
    with tempfile.TemporaryDirectory(prefix="muse-serve-") as folder:
        _run(pathlib.Path(folder), arguments, report)


def _run(
    folder: pathlib.Path, arguments: argparse.Namespace, report: Any
) -> None:
    from benchmarks import models
    from benchmarks.load import benchmark, processes

    quick = arguments.quick
    num_items = 20_000 if quick else 200_000
    harness.say(f"serve: exporting models with {num_items:,} items")
    noop = models.export_echo(folder)
    muse = models.export_muse(folder, num_items, with_user_cache=True)
    matching = models.export_matching(folder, num_items, 1_000)
    harness.say("serve: starting the servers")
    with contextlib.ExitStack() as stack:

        def serve(name: str, **served: pathlib.Path) -> Any:
            bases = {model: path.parent for model, path in served.items()}
            server = processes.model_server(folder, bases, name=name)
            return stack.enter_context(server)

        with ThreadPoolExecutor() as pool:
            echo = pool.submit(serve, "noop", muse=noop)
            full = pool.submit(serve, "server", muse=muse, matching=matching)
        servers = {"no-op": echo.result(), "MUSE": full.result()}
        if arguments.part != "load":
            requests = {
                "large": models.rank_request(
                    num_items, *(QUICK_LARGE if quick else LARGE)
                ),
                "small": models.rank_request(num_items, *SMALL),
            }
            for model, path in (("no-op", noop), ("MUSE", muse)):
                for size, inputs in requests.items():
                    long = model == "MUSE" and size == "large"
                    runs = (3 if quick else 7) if long else (7 if quick else 51)
                    address = servers[model]
                    _one_call(report, model, size, path, address, inputs, runs)
        loads = None
        if arguments.part != "calls":
            loads = benchmark.run(
                folder, report, servers["MUSE"], servers["no-op"], num_items,
                quick,
            )  # fmt: skip
    if loads is not None and not arguments.json:
        loads.print_table()
    report.close()


def _one_call(
    report: Any,
    model: str,
    size: str,
    path: pathlib.Path,
    address: Any,
    inputs: dict[str, Any],
    runs: int,
) -> None:
    """Measure one request alone, in every way."""
    import numpy as np
    import tensorflow as tf

    from serving.client import MuseClient, Timeouts, wire_grpc, wire_rest
    from serving.client.wire_grpc import Target
    from serving.model_server.servable import Servable, SessionOptions
    from serving.model_server.signatures import run_signature

    harness.say(f"serve: {model}, {size} request")
    servable = Servable("muse", 1, str(path), SessionOptions())
    limits = Timeouts(call=60, total=60)
    message = wire_grpc.predict_request(Target("muse"), "rank", inputs)
    body = wire_rest.predict_call(Target("muse"), "rank", inputs).body or b""
    with contextlib.ExitStack() as stack:
        by_grpc = stack.enter_context(MuseClient(address.grpc, timeouts=limits))
        by_rest = stack.enter_context(
            MuseClient(address.rest, "rest", timeouts=limits)
        )
        raw_grpc, raw_http = stack.enter_context(_raw_echo(message, body))
        scores: dict[str, np.ndarray] = {}

        def keep(name: str, call: Callable[[], Any]) -> Callable[[], float]:
            def run() -> None:
                scores[name] = call()["click_probability"]

            return harness.timed(run)

        calls = {
            "in-process": keep(
                "in-process", lambda: run_signature(servable, "rank", inputs)
            ),
            "gRPC": keep("gRPC", lambda: by_grpc.predict("rank", inputs)),
            "bytes only, gRPC": harness.timed(raw_grpc),
            "REST": keep("REST", lambda: by_rest.predict("rank", inputs)),
            "bytes only, HTTP": harness.timed(raw_http),
        }
        medians = harness.alternate(calls, runs)
    loaded = tf.saved_model.load(str(path)).signatures["rank"]
    reference = loaded(
        **{name: tf.constant(value) for name, value in inputs.items()}
    )["click_probability"].numpy()
    servable.close()
    same = all(
        np.array_equal(scores["in-process"], found) for found in scores.values()
    )
    apart = float(np.abs(scores["in-process"] - reference).max())
    inside = medians["in-process"]
    case = f"{model}, {inputs['candidate_item_ids'].size:,} candidates x "
    case += f"{inputs['behavior_item_ids'].size:,} history"
    for ours, raw, sent in (
        ("gRPC", "bytes only, gRPC", message),
        ("REST", "bytes only, HTTP", body),
    ):
        report.add(
            f"{ours}, {case}",
            medians[ours],
            {"in-process": inside, raw: medians[raw]},
            agree=same and apart < 1e-6,
            agree_by="scores of gRPC, REST and session bit-equal, "
            "saved_model.load within 1e-6",
            floor_ms=medians[raw],
        )
        report.fact(
            f"{ours} overhead, {case}",
            overhead_ms=round(medians[ours] - inside, 3),
            without_transfer_ms=round(medians[ours] - inside - medians[raw], 3),
            request_bytes=len(sent),
            scores_from_saved_model_load=apart,
        )


@contextlib.contextmanager
def _raw_echo(
    message: bytes, body: bytes
) -> Iterator[tuple[Callable[[], Any], Callable[[], Any]]]:
    """Give calls that send the bytes of a request and get as many back."""
    import grpc

    from benchmarks.peers import raw_echo

    server = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.peers.raw_echo", "4100"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        ports: Any = server.stdout
        grpc_port, http_port = json.loads(ports.readline())
        connection = http.client.HTTPConnection("127.0.0.1", http_port)
        options = [("grpc.max_send_message_length", -1)]
        with grpc.insecure_channel(
            f"127.0.0.1:{grpc_port}", options
        ) as channel:
            call = channel.unary_unary(raw_echo.METHOD)

            def post() -> None:
                connection.request("POST", "/echo", body)
                connection.getresponse().read()

            yield lambda: call(message), post
        connection.close()
    finally:
        server.communicate()


if __name__ == "__main__":
    main()
