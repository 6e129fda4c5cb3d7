"""The part of `muse bench serve` that makes load."""

from __future__ import annotations

import contextlib
import json
import pathlib
import subprocess
import sys
from collections.abc import Iterator

from benchmarks import harness
from benchmarks.load import agreement, runs
from benchmarks.load.processes import Server, ranking_service
from benchmarks.load.workload import LAYOUT, Workload
from benchmarks.remote import Remote

ANSWER_BYTES = 4_100


def run(
    folder: pathlib.Path,
    report: harness.Report,
    muse: Server,
    noop: Server,
    num_items: int,
    quick: bool,
) -> runs.Runs:
    """Run all loads.

    Args:
        folder: for files.
        report: where the lines go.
        muse: serves the models `muse`, with a user cache, and `matching`.
        noop: serves a `muse` that does nothing.
        num_items: items of the models.
        quick: less of everything.

    Returns:
        The runs, to be printed.
    """
    sizes = runs.QUICK if quick else runs.Sizes()
    workloads = {
        name: {"num_items": num_items, **given}
        for name, given in runs.workload_names(sizes).items()
    }
    mixed = Workload(**workloads["mixed"])
    harness.say("serve: filling the store")
    store = f"lmdb:{folder / 'store'}"
    _fill(store, mixed, muse)
    with contextlib.ExitStack() as stack:
        service = stack.enter_context(
            ranking_service(
                folder,
                store=store,
                targets=[muse.grpc],
                log_requests=False,
                num_candidates=sizes.candidates[0],
            )
        )
        raw = stack.enter_context(_raw_server(folder))
        apart, problems = agreement.apart(
            mixed, muse.grpc, muse.rest, service.grpc
        )
        report.fact(
            "agreement of rank and rank_cached by gRPC and REST, and of the "
            "ranking service",
            largest_difference=apart,
            tolerance=agreement.TOLERANCE,
            problems=problems,
        )
        if problems or not apart < agreement.TOLERANCE:
            report.wrong(f"probabilities: {apart}, {problems}")
        generator = stack.enter_context(Remote("benchmarks.load.generator"))
        generator.call(
            "prepare",
            targets={
                "muse": muse.grpc,
                "muse_rest": muse.rest,
                "noop": noop.grpc,
                "service": service.grpc,
                "raw": raw.grpc,
            },
            workloads=workloads,
        )
        made = runs.Runs(
            report,
            generator,
            {"server": muse, "noop": noop, "raw": raw, "service": service},
        )
        runs.control(made, sizes)
        runs.beside(made, sizes)
        runs.model(made, generator, sizes)
        runs.mixed(made, generator, sizes)
        runs.service(made, sizes)
    return made


def _fill(url: str, workload: Workload, muse: Server) -> None:
    """Write the users into a store, with the rows of their items."""
    from serving.client import MuseClient
    from serving.stores import UserRecord, open_store

    with open_store(url, LAYOUT) as store, MuseClient(muse.grpc) as client:
        store.replace_many(
            [
                UserRecord(
                    user.user_id, user.user, user.item_ids, user.behaviors
                )
                for user in workload.users
            ]
        )
        for user in workload.users:
            found = client.resolve_items(user.item_ids)
            store.set_rows(user.user_id, found.rows, int(found.table_stamp))


@contextlib.contextmanager
def _raw_server(folder: pathlib.Path) -> Iterator[Server]:
    """Run the server that looks at no byte of a request."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.peers.raw_echo", str(ANSWER_BYTES)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    if process.stdin is None or process.stdout is None:
        raise AssertionError("the server has pipes")
    try:
        grpc, rest = json.loads(process.stdout.readline())
        yield Server(
            name="raw",
            process=process,
            grpc=f"127.0.0.1:{grpc}",
            rest=f"127.0.0.1:{rest}",
            log=folder,
        )
    finally:
        process.stdin.close()
        process.wait()
