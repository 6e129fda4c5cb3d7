"""An item table of 35.46 million items: export, load, swap, rank.

A synthetic table (random ids, 128 random int8 codes each) is written,
exported by one fresh process and served by another. A second process exports
the same model without holding its tables, which go from files to files; its
version is loaded and called beside the first. The first server then exchanges
its version for a second one of the same size in both documented ways:

- with overlap, TF Serving's policy: the new version is loaded beside the old
  one, no request fails, both are in memory for a while;
- without overlap: `HandleReloadConfigRequest` with an empty list unloads the
  model, a second request loads it again. Memory holds one version, the model
  cannot answer in between.

Facts are seconds and memory: peaks are the kernel's (`VmHWM`), and ratios are
to the bytes of the item table (its ids, codes and features on disk).

The cases are calls of `rank` by gRPC with a history and candidates drawn from
the whole table; the peer is the same model over a small table, so that the
ratio tells what the table's size costs. They agree when both score the same
items alike, to the bit; the small table holds some of the large one's items.
The floor is one request's codes at the memory's speed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks import harness
from benchmarks.remote import Remote

LARGE, SMALL = 35_460_000, 100_000
QUICK_LARGE, QUICK_SMALL = 1_000_000, 20_000
REQUESTS = ((1_000, 100), (100_000, 100))
BYTES_PER_SECOND = 28e9
DIM = 128
FILES = "from files"
LOAD_LIMIT_S = 200


def main() -> None:
    """Time the way of a large item table to a server, and its memory."""
    arguments = harness.parser(__doc__).parse_args()
    harness.pin(arguments.threads)
    report = harness.Report("table", arguments)
    with tempfile.TemporaryDirectory() as folder:
        _run(pathlib.Path(folder), arguments, report)
    report.close()


def _run(
    folder: pathlib.Path, arguments: argparse.Namespace, report: harness.Report
) -> None:
    from muse_keras.tables import ItemTable

    sizes = (
        {"large": QUICK_LARGE, "small": QUICK_SMALL}
        if arguments.quick
        else {"large": LARGE, "small": SMALL}
    )
    harness.say(f"table: writing a table of {sizes['large']:,} items")
    with Remote("benchmarks.table_steps") as writer:
        tables = writer.call("write", folder=str(folder), sizes=sizes)
    table_mb = tables["large"]["table_mb"]
    case = f"{sizes['large']:,} items"
    report.fact(f"{case}: write", **tables["large"])
    tables_of = {**{name: name for name in sizes}, FILES: "large"}
    for name, table in tables_of.items():
        harness.say(f"table: exporting {name}")
        with Remote("benchmarks.table_steps") as exporter:
            exported = exporter.call(
                "export",
                table=str(folder / table),
                target=str(folder / f"{name}-model" / "1"),
                held=name != FILES,
            )
        if table == "large":
            ratio = round(exported["peak_mb"] / table_mb, 2)
            report.fact(f"{case}: export, {name}", **exported, peak_ratio=ratio)
    with contextlib.ExitStack() as stack:
        harness.say("table: loading the tables")

        def serve(name: str) -> _Server:
            return stack.enter_context(_server(folder / f"{name}-model"))

        # One after the other where the seconds of loading count.
        with ThreadPoolExecutor(3 if arguments.quick else 1) as pool:
            servers = dict(
                zip(tables_of, pool.map(serve, tables_of), strict=True)
            )
        large = servers["large"]
        for name in ("large", FILES):
            server = servers[name]
            report.fact(
                f"{case}: load, {name}",
                ready_s=round(server.ready_s, 1),
                peak_mb=server.memory("VmHWM"),
                resident_mb=server.memory("VmRSS"),
                resident_ratio=round(server.memory("VmRSS") / table_mb, 2),
            )
        ids = {
            name: ItemTable.open(folder / table).item_ids
            for name, table in tables_of.items()
        }
        for length, candidates in REQUESTS:
            _rank(report, ids, servers, length, candidates)
        if arguments.quick:
            return
        # Memory has room for three versions, not for four.
        servers.pop(FILES).end()
        # TensorFlow with oneDNN keeps freed memory for the next version, so
        # the swap that needs less comes first.
        for name, swap in (
            ("without overlap", _swap_without_overlap),
            ("with overlap", _swap_with_overlap),
        ):
            harness.say(f"table: version swap {name}")
            large.reset_peak()
            facts = swap(large)
            facts["peak_mb"] = large.memory("VmHWM")
            facts["peak_ratio"] = round(facts["peak_mb"] / table_mb, 2)
            facts["resident_mb"] = large.memory("VmRSS")
            report.fact(f"{case}: swap {name}", **facts)


class _Server:
    """A running server and its memory."""

    def __init__(
        self, process: Any, base: pathlib.Path, port: int, ready_s: float
    ) -> None:
        self.base = base
        self.target = f"127.0.0.1:{port}"
        self.ready_s = ready_s
        self._process = process
        self._status = pathlib.Path(f"/proc/{process.pid}/status")
        self._clear = pathlib.Path(f"/proc/{process.pid}/clear_refs")

    def end(self) -> None:
        """End the server, and wait until its memory is free."""
        self._process.terminate()
        self._process.wait()

    def memory(self, name: str) -> int:
        """Return an entry of the process's status, in MiB."""
        lines = self._status.read_text().splitlines()
        line = next(line for line in lines if line.startswith(name))
        return int(line.split()[1]) // 1024

    def reset_peak(self) -> None:
        """Reset the peak to the memory that is resident now."""
        self._clear.write_text("5")

    def model_service(self) -> Any:
        """Return a stub of the model service."""
        import grpc
        from tensorflow_serving.apis import model_service_pb2_grpc

        return model_service_pb2_grpc.ModelServiceStub(
            grpc.insecure_channel(self.target)
        )


@contextlib.contextmanager
def _server(base: pathlib.Path) -> Iterator[_Server]:
    """Serve a folder of versions by `python -m serving.model_server`."""
    ports = base / "ports.json"
    start = time.perf_counter()
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "serving.model_server"),
            f"--model_base_path={base}",
            *("--port=0", "--rest_api_port=-1"),
            f"--port_file={ports}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        _wait(ports.exists, process)
        ready_s = time.perf_counter() - start
        port = json.loads(ports.read_text())["port"]
        yield _Server(process, base, port, ready_s)
    finally:
        process.terminate()
        process.wait()


def _rank(
    report: harness.Report,
    ids: dict[str, Any],
    servers: dict[str, _Server],
    length: int,
    candidates: int,
) -> None:
    """Time `rank` over both tables and compare the scores of shared items."""
    import numpy as np

    from serving.client import MuseClient, Timeouts

    generator = np.random.default_rng(1)
    limits = Timeouts(call=60, total=60)
    with contextlib.ExitStack() as stack:
        clients = {
            name: stack.enter_context(
                MuseClient(server.target, timeouts=limits)
            )
            for name, server in servers.items()
        }

        def timed(name: str) -> harness.Timed:
            def call() -> float:
                request = _request(generator, ids[name], length, candidates)
                return harness.timed(
                    lambda: clients[name].predict("rank", request)
                )()

            return call

        medians = harness.alternate({name: timed(name) for name in clients})
        shared = _request(generator, ids["small"], length, candidates)
        scores = [
            client.predict("rank", shared)["click_probability"]
            for client in clients.values()
        ]
    report.add(
        f"rank {candidates:,} of {len(ids['large']):,} items, "
        f"history {length:,}",
        medians["large"],
        {
            f"{len(ids['small']):,} items": medians["small"],
            FILES: medians[FILES],
        },
        agree=all(np.array_equal(scores[0], other) for other in scores[1:])
        and bool(np.ptp(scores[0]) > 0),
        agree_by="all tables give shared items the same scores, to the bit",
        floor_ms=1e3 * (length + candidates) * DIM / BYTES_PER_SECOND,
        rss=servers["large"].memory("VmHWM"),
    )


def _request(
    generator: Any, item_ids: Any, length: int, candidates: int
) -> dict[str, Any]:
    """Return the inputs of `rank` for one user, with some unknown items."""
    import numpy as np

    def some(count: int) -> Any:
        known = item_ids[generator.integers(0, len(item_ids), count)]
        return np.where(generator.random(count) < 0.95, known, 1)[None]

    return {
        "user_id": np.ones(1, np.int64),
        **{
            f"user_profile_{number}": generator.integers(1, 1_000, 1)
            for number in range(1, 6)
        },
        "behavior_item_ids": some(length),
        "behavior_category": generator.integers(1, 1_001, (1, length)),
        "candidate_item_ids": some(candidates),
    }


def _swap_with_overlap(server: _Server) -> dict[str, Any]:
    """Add version 3 to version 2 and wait until it serves."""
    start = time.perf_counter()
    (server.base / "3").symlink_to(server.base / "1", True)
    _wait(lambda: _state(server, 3) == "AVAILABLE")
    ready = time.perf_counter() - start
    _wait(lambda: _state(server, 2) == "END")
    return {"swap_s": round(ready, 1), "unavailable_s": 0.0}


def _swap_without_overlap(server: _Server) -> dict[str, Any]:
    """Unload version 1, then load version 2."""
    from tensorflow_serving.apis import model_management_pb2

    stub = server.model_service()
    start = time.perf_counter()
    request = model_management_pb2.ReloadConfigRequest()
    request.config.model_config_list.SetInParent()
    stub.HandleReloadConfigRequest(request)
    _wait(lambda: _state(server, 1) == "END")
    (server.base / "2").symlink_to(server.base / "1", True)
    model = request.config.model_config_list.config.add()
    model.name, model.base_path = "muse", str(server.base)
    model.model_platform = "tensorflow"
    stub.HandleReloadConfigRequest(request, timeout=LOAD_LIMIT_S)
    _wait(lambda: _state(server, 2) == "AVAILABLE")
    spent = round(time.perf_counter() - start, 1)
    return {"swap_s": spent, "unavailable_s": spent}


def _state(server: _Server, version: int) -> str:
    """Return the state of a version, or nothing if it is not known."""
    from tensorflow_serving.apis import get_model_status_pb2

    request = get_model_status_pb2.GetModelStatusRequest()
    request.model_spec.name = "muse"
    reply = server.model_service().GetModelStatus(request)
    kinds = get_model_status_pb2.ModelVersionStatus.State
    return next(
        (
            kinds.Name(status.state)
            for status in reply.model_version_status
            if status.version == version
        ),
        "",
    )


def _wait(done: Callable[[], bool], process: Any = None) -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + LOAD_LIMIT_S
    while not done():
        if process is not None and process.poll() is not None:
            raise SystemExit(f"the server ended with {process.returncode}.")
        if time.monotonic() > deadline:
            raise SystemExit(f"nothing happened in {LOAD_LIMIT_S} s.")
        time.sleep(0.05)


if __name__ == "__main__":
    main()
