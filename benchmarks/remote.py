"""A peer in a process of its own, called through a pipe.

Libraries that cannot share a process (two OpenMP runtimes) or an environment
(PyTorch lives in `.venv-backends`) are measured in a child of the benchmark:
the child prepares and times its work itself, so that the pipe is not part of
a measurement, and hands results over as `.npy` files.

The child's module calls `serve` with its functions; the benchmark calls them
by name:

    with Remote("benchmarks.peers.torch_gsu", BACKENDS) as peer:
        peer.call("prepare", path="/some/history.npy")
        milliseconds = peer.timed("search")
"""

from __future__ import annotations

import json
import os
import pathlib
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

PROJECT = pathlib.Path(__file__).resolve().parents[1]
BACKENDS = PROJECT / os.environ.get("BACKENDS_VENV", ".venv-backends")


class Remote:
    """A child process that answers calls.

    Args:
        module: module to run, which calls `serve`.
        environment: folder of the virtual environment whose Python runs it;
            None for this Python.
    """

    def __init__(
        self, module: str, environment: pathlib.Path | None = None
    ) -> None:
        python = sys.executable
        if environment is not None:
            python = str(environment / "bin" / "python")
            if not pathlib.Path(python).exists():
                raise SystemExit(
                    f"the peers of this benchmark need {environment.name}; "
                    "run `make setup-backends` first."
                )
        self._module = module
        self._process: Any = subprocess.Popen(
            [python, "-m", module],
            cwd=PROJECT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def call(self, name: str, /, **arguments: Any) -> Any:
        """Call a function of the child and return its (JSON) result."""
        print(json.dumps([name, arguments]), file=self._process.stdin)
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(
                f"{self._module} ended in `{name}` with code "
                f"{self._process.wait()}."
            )
        return json.loads(line)

    def timed(self, name: str, /, **arguments: Any) -> Callable[[], float]:
        """Return a measured call of a function that returns milliseconds."""
        return lambda: float(self.call(name, **arguments))

    def close(self) -> None:
        """End the child."""
        self._process.stdin.close()
        self._process.wait()

    def __enter__(self) -> Remote:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the child."""
        self.close()


def serve(functions: Mapping[str, Callable[..., Any]]) -> None:
    """Answer calls on standard input until it ends."""
    replies = os.fdopen(os.dup(1), "w")
    # What libraries print must not come between the replies.
    os.dup2(2, 1)
    for line in sys.stdin:
        name, arguments = json.loads(line)
        replies.write(json.dumps(functions[name](**arguments)) + "\n")
        replies.flush()
