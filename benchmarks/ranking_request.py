"""One request to the ranking service, drawn: a long history, many items.

Exports a MUSE ranker with a user cache and a retrieval model over the
same items (random vectors and weights), serves both from one process, loads one
user into an LMDB store, starts the ranking service in a process of its own
and draws the request whose total is the median of several.

    python -m benchmarks.ranking_request OUT.svg [--items N] [--history L]
        [--candidates C] [--requests R] [--keep DIR]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator

import numpy as np

from benchmarks import models
from benchmarks.load.workload import LAYOUT, Workload

USER = 7
DEADLINE_MS = 5_000


def main() -> None:
    """Serve both models, ask for rankings and draw the median one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--items", type=int, default=1_000_000)
    parser.add_argument("--history", type=int, default=100_000)
    parser.add_argument("--candidates", type=int, default=200)
    parser.add_argument("--requests", type=int, default=25)
    parser.add_argument(
        "--keep", type=pathlib.Path, help="folder to keep the exports in"
    )
    given = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = given.keep or pathlib.Path(
            stack.enter_context(tempfile.TemporaryDirectory())
        )
        _measure(folder, given)


def _measure(folder: pathlib.Path, given: argparse.Namespace) -> None:
    from serving.local_server import local_server
    from serving.ranking_service import timeline

    versions = {name: folder / name / "1" for name in ("muse", "matching")}
    if not versions["muse"].is_dir():
        models.export_muse(folder, given.items, with_user_cache=True)
    if not versions["matching"].is_dir():
        _export_matching(versions["matching"], given)
    store = f"lmdb:{folder / 'store'}"
    _fill(store, given)
    with (
        local_server(versions) as address,
        _service(folder, store, address.grpc) as target,
    ):
        timeline.main(
            [
                target,
                str(USER),
                str(given.out),
                f"--num-candidates={given.candidates}",
                f"--deadline-ms={DEADLINE_MS}",
                f"--requests={given.requests}",
            ]
        )


def _export_matching(path: pathlib.Path, given: argparse.Namespace) -> None:
    """Export a retrieval model in a process with the Keras that it needs."""
    code = (
        "from benchmarks import ranking_request as r; "
        f"r.write_matching({str(path)!r}, {given.items}, {given.candidates})"
    )
    subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        env={**os.environ, "TF_USE_LEGACY_KERAS": "1"},
    )


def write_matching(path: str, num_items: int, num_candidates: int) -> None:
    """Write a retrieval model over random vectors.

    Args:
        path: version folder.
        num_items: items; their ids are `models.item_ids`.
        num_candidates: items of an answer.
    """
    import tensorflow as tf

    from tfx_pipeline.matching.index import Matcher
    from tfx_pipeline.matching.settings import Scoring

    generator = np.random.default_rng(1)
    vectors = generator.standard_normal((num_items, models.DIM), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    matcher = Matcher(
        models.item_ids(num_items),
        vectors,
        generator.random(num_items, np.float32),
        num_candidates=num_candidates,
        max_behaviors=1_000,
        scoring=Scoring(10.0, 0.1, 0.1),
    )
    tf.saved_model.save(matcher, path, signatures=matcher.signatures())


def _fill(store: str, given: argparse.Namespace) -> None:
    from serving.stores import open_store

    (user,) = Workload(given.items, [(given.history, 1)], 1).users
    with open_store(store, LAYOUT) as opened:
        opened.append(USER, user.item_ids, user.behaviors, user.user)


@contextlib.contextmanager
def _service(folder: pathlib.Path, store: str, target: str) -> Iterator[str]:
    """Run the service in a process of its own; yields its address."""
    ports = folder / "ranking.json"
    ports.unlink(missing_ok=True)
    settings = {
        "store": store,
        "targets": [target],
        "port": 0,
        "rest_port": -1,
        "port_file": str(ports),
        "log_requests": False,
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "serving.ranking_service", json.dumps(settings)],
        stdin=subprocess.DEVNULL,
    )
    try:
        while not ports.exists():
            if process.poll() is not None:
                raise SystemExit("the ranking service did not start")
            time.sleep(0.1)
        yield f"127.0.0.1:{json.loads(ports.read_text())['port']}"
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    main()
