"""Numbers of results as the text of a table's cells."""

from __future__ import annotations

from muse_tools.compare.config import BASE_EMBEDDINGS
from muse_tools.compare.results import Interval
from muse_tools.pages.blocks import NO_VALUE, Cell


def interval(found: Interval | None, sign: str = "") -> Cell:
    """Returns value, interval and spread over seeds, a line each."""
    if found is None or found.value is None:
        return (NO_VALUE,)
    lines = [f"{found.value:{sign}.4f}"]
    if found.lower is not None and found.upper is not None:
        lines.append(f"[{found.lower:{sign}.4f}, {found.upper:{sign}.4f}]")
    if found.spread is not None:
        lines.append(f"± {found.spread:.4f}")
    return tuple(lines)


def digits(value: float | None, places: int, unit: str = "") -> str:
    """Returns a number with so many decimal places."""
    return NO_VALUE if value is None else f"{value:.{places}f}{unit}"


def percent(share: float | None, places: int = 1) -> str:
    """Returns a share in percent."""
    return NO_VALUE if share is None else f"{100 * share:.{places}f} %"


def count(value: int | None) -> str:
    """Returns a number with separators of thousands."""
    return NO_VALUE if value is None else f"{value:,}"


def vectors_name(embeddings: str) -> str:
    """Returns the name of item vectors for readers."""
    return "the pipeline's" if embeddings == BASE_EMBEDDINGS else embeddings
