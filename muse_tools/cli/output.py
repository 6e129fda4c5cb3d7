"""How commands speak: progress, one-line errors."""

from __future__ import annotations

import contextlib
import pathlib
import sys
import time
from collections.abc import Iterator

import typer

__all__ = [
    "Reporter",
    "one_line_errors",
    "short",
    "wrong_usage",
]


class Reporter:
    """Writes progress lines with the elapsed time to standard error."""

    def __init__(self) -> None:
        self._start = time.monotonic()

    def __call__(self, message: str) -> None:
        """Writes one line."""
        seconds = int(time.monotonic() - self._start)
        sys.stderr.write(
            f"[{seconds // 60:02d}:{seconds % 60:02d}] {message}\n"
        )
        sys.stderr.flush()


@contextlib.contextmanager
def one_line_errors() -> Iterator[None]:
    """Turns expected failures into one line and exit code 1."""
    try:
        yield
    except (ValueError, OSError, RuntimeError) as error:
        sys.stderr.write(f"error: {_one_line(error)}\n")
        raise typer.Exit(1) from error
    except ModuleNotFoundError as error:
        sys.stderr.write(
            f"error: the package {error.name} is not installed; install "
            "everything with: pip install 'muse-tensorflow[all]'\n"
        )
        raise typer.Exit(1) from error


@contextlib.contextmanager
def wrong_usage(option: str | None = None) -> Iterator[None]:
    """Turns a `ValueError` about options into exit code 2.

    Args:
        option: Which one; by default what stands before the first colon.
    """
    try:
        yield
    except ValueError as error:
        text = _one_line(error)
        name, colon, rest = text.partition(": ")
        if option is None and colon and name.isidentifier():
            option, text = f"--{name.replace('_', '-')}", rest
        raise typer.BadParameter(text, param_hint=option) from error


def _one_line(error: Exception) -> str:
    # Pydantic's own text is a paragraph.
    details = getattr(error, "errors", list)
    text = "; ".join(
        f"{'.'.join(map(str, detail['loc']))}: "
        f"{detail['msg'].removeprefix('Value error, ')}"
        for detail in details()
    )
    return text or " ".join(str(error).split()) or type(error).__name__


def short(path: pathlib.Path) -> str:
    """Returns a path as one would type it here."""
    try:
        return str(path.relative_to(pathlib.Path.cwd()))
    except ValueError:
        return str(path)
