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
same bits, and those of `tf.saved_model.load`, which optimises the graph in its
own way, differ by less than 1e-6. `bytes only` is also the floor.

Then callers in one more process ask as fast as they are answered, 1 to 16 at
once: percentiles and answers per second (server, callers and the model share
the same cores), and how long a small call takes beside large REST calls,
which are megabytes of JSON.
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
CALLERS = (1, 2, 4, 8, 16)


def main() -> None:
    """Runs the benchmark."""
    arguments = harness.parser(__doc__).parse_args()
    harness.pin(arguments.threads)
    report = harness.Report("serve", arguments)
    with tempfile.TemporaryDirectory() as folder:
        _run(pathlib.Path(folder), arguments, report)
    report.close()


def _run(
    folder: pathlib.Path, arguments: argparse.Namespace, report: Any
) -> None:
    from benchmarks import models
    from benchmarks.remote import Remote
    from serving.local_server import local_server

    quick = arguments.quick
    num_items = 20_000 if quick else 200_000
    harness.say(f"serve: exporting a model with {num_items:,} items")
    noop = models.export_echo(folder)
    muse = models.export_muse(folder, num_items)
    requests = {
        "large": models.rank_request(
            num_items, *(QUICK_LARGE if quick else LARGE)
        ),
        "small": models.rank_request(num_items, *SMALL),
    }
    harness.say("serve: starting the servers")
    with contextlib.ExitStack() as stack:

        def serve(path: pathlib.Path) -> Any:
            return path, stack.enter_context(local_server(path))

        with ThreadPoolExecutor() as pool:
            served = dict(
                zip(
                    ("no-op", "MUSE"),
                    pool.map(serve, (noop, muse)),
                    strict=True,
                )
            )
        for model, (path, address) in served.items():
            for size, inputs in requests.items():
                long = model == "MUSE" and size == "large"
                runs = 7 if long else (15 if quick else 51)
                _one_call(report, model, size, path, address, inputs, runs)
        load = stack.enter_context(Remote("benchmarks.peers.load"))
        files = {name: str(folder / f"{name}.npz") for name in requests}
        _save(files, requests)
        address = served["MUSE"][1]
        load.call(
            "prepare",
            targets={"grpc": address.grpc, "rest": address.rest},
            requests=files,
        )
        _under_load(report, load, quick)


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
    from serving.server.servable import Servable, SessionOptions
    from serving.server.signatures import run_signature

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


def _under_load(report: Any, load: Any, quick: bool) -> None:
    """Measure many calls at once."""
    seconds = {"small": 0.7 if quick else 3.0, "large": 1.0 if quick else 8.0}
    for size in ("small", "large"):
        for callers in (1, 4) if quick else CALLERS:
            harness.say(f"serve: {callers} callers, {size}")
            found = load.call(
                "run",
                transport="grpc",
                request=size,
                callers=callers,
                seconds=seconds[size],
            )
            report.fact(f"load, {size}, gRPC", callers=callers, **found)
    for beside in (None, ["rest", "large", 1]):
        found = load.call(
            "run",
            transport="grpc",
            request="small",
            callers=1,
            seconds=seconds["large"],
            beside=beside,
        )
        case = "small gRPC call" + (
            " beside one large REST caller" if beside else " alone"
        )
        report.fact(case, **found)


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


def _save(files: dict[str, str], requests: dict[str, Any]) -> None:
    import numpy as np

    for name, inputs in requests.items():
        np.savez(files[name], **inputs)


if __name__ == "__main__":
    main()
