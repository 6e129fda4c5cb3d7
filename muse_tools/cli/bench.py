"""``muse bench``: runs each benchmark in a process of its own."""

from __future__ import annotations

import pathlib
import subprocess
import sys
from typing import Annotated

import typer

from muse_tools.cli import output
from muse_tools.cli.options import JsonOption

_PROJECT = pathlib.Path(__file__).resolve().parents[2]
_NAMES = (
    "gsu",
    "lookup",
    "table",
    "train",
    "workers",
    "ingest",
    "serve",
    "user_cache",
    "sticky",
)
# Takes as long as all others together.
_ALONE = ("growth",)


def bench(
    name: Annotated[
        str, typer.Argument(help=f"{', '.join((*_NAMES, *_ALONE))} or all.")
    ] = "all",
    quick: Annotated[
        bool, typer.Option("--quick", help="Small sizes.")
    ] = False,
    as_json: JsonOption = False,
    device: Annotated[
        str, typer.Option(help="cpu, or gpu for the layers of gsu.")
    ] = "cpu",
) -> None:
    """Compare this project with its peers on this machine.

    All of them take 15 to 20 minutes on 2 cores, with --quick about 4 minutes.
    That is without growth, which runs only by its name.

    Example: muse bench gsu --quick
    """
    with output.one_line_errors():
        known = (*_NAMES, *_ALONE)
        if name not in (*known, "all"):
            raise typer.BadParameter(
                f"expected {', '.join(known)} or all. Received: {name}"
            )
        if not (_PROJECT / "benchmarks").is_dir():
            raise RuntimeError(
                "the benchmarks are not part of the installed package; run "
                "them from a checkout of the repository."
            )
        if device not in ("cpu", "gpu") or (device == "gpu" and name != "gsu"):
            raise typer.BadParameter(
                "expected --device cpu, or gpu with the benchmark gsu. "
                f"Received: {name} --device {device}"
            )
        options = [
            *(["--device", "gpu"] if device == "gpu" else []),
            *(["--quick"] if quick else []),
            *(["--json"] if as_json else []),
        ]
        for chosen in _NAMES if name == "all" else (name,):
            code = subprocess.run(
                [sys.executable, "-m", f"benchmarks.{chosen}", *options],
                cwd=_PROJECT,
                check=False,
            ).returncode
            if code:
                raise RuntimeError(f"benchmark {chosen} ended with {code}.")
