"""Output of commands: results, progress and one-line errors."""

from __future__ import annotations

import contextlib
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import typer

from muse_tools import INSTALL_ALL
from serving.files import dumps


def group(name: str, about: str) -> typer.Typer:
    """Returns a command with subcommands."""
    return typer.Typer(
        name=name, help=about, no_args_is_help=True, rich_markup_mode=None
    )


class Reporter:
    """Writes progress lines with the elapsed time to standard error."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, message: str) -> None:
        """Writes the time since the start and a message."""
        seconds = int(time.monotonic() - self._start)
        sys.stderr.write(
            f"[{seconds // 60:02d}:{seconds % 60:02d}] {message}\n"
        )
        sys.stderr.flush()


@contextlib.contextmanager
def progress(title: str) -> Iterator[Callable[[str, float], None]]:
    """Shows the stage and the share of work done on standard error.

    A terminal gets a bar that disappears at the end, so that an error is the
    last line. Logs get one line per stage.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        Progress,
        TaskProgressColumn,
        TextColumn,
        TimeElapsedColumn,
    )

    console = Console(stderr=True)
    if not console.is_terminal:
        told = ""

        def tell_log(stage: str, share: float) -> None:
            nonlocal told
            if stage != told and share < 1.0:
                sys.stderr.write(f"{title}: {stage} ({share:.0%} done)\n")
                sys.stderr.flush()
            told = stage

        yield tell_log
        return
    with Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        console=console,
        transient=True,
    ) as bar:
        task = bar.add_task(title, total=1.0)

        def tell(stage: str, share: float) -> None:
            bar.update(task, description=f"{title}: {stage}", completed=share)

        yield tell


def write_lines(lines: Sequence[str]) -> None:
    """Writes lines to standard output and flushes it."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


def ranking_lines(grpc: str | None, rest: str | None) -> list[str]:
    """Returns lines with the addresses of a ranking service."""
    lines = ["Ranking service"]
    if grpc is not None:
        lines.append(f"  gRPC     {grpc}")
    if rest is not None:
        lines += [f"  REST     {rest}/v1/rank", f"  metrics  {rest}/metrics"]
    return lines


def write_json(value: Any, indent: int | None = 2) -> None:
    """Writes a value as JSON; without `indent` on one line."""
    write_lines([dumps(value, indent=indent, ensure_ascii=False)])


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns expected failures into one line and exit code 1."""
    try:
        yield
    except (typer.Exit, typer.Abort):  # They are RuntimeErrors.
        raise
    except (ValueError, OSError, RuntimeError) as error:
        sys.stderr.write(f"error: {_one_line(error)}\n")
        raise typer.Exit(1) from error
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"error: the package {error.name} is not installed; install "
            f"everything with: {INSTALL_ALL}\n"
        )
        raise typer.Exit(1) from error


@contextlib.contextmanager
def wrong_usage(option: str | None = None) -> Iterator[None]:
    """Turns a `ValueError` about options into exit code 2."""
    try:
        yield
    except ValueError as error:
        text = _one_line(error)
        name, colon, rest = text.partition(": ")
        if option is None and colon and name.isidentifier():
            option, text = f"--{name.replace('_', '-')}", rest
        raise typer.BadParameter(text, param_hint=option) from error


def _one_line(error: Exception) -> str:
    # The text of a pydantic error has several lines.
    details = getattr(error, "errors", list)
    text = "; ".join(
        f"{'.'.join(map(str, detail['loc']))}: "
        f"{detail['msg'].removeprefix('Value error, ')}"
        for detail in details()
    )
    return text or " ".join(str(error).split()) or type(error).__name__


def short(path: pathlib.Path) -> str:
    """Returns a path relative to the working directory, if it is inside."""
    try:
        return str(path.relative_to(pathlib.Path.cwd()))
    except ValueError:
        return str(path)
