"""Formats results as texts, table entries and chart points."""

from __future__ import annotations

import importlib.resources
from typing import Any, Final

import yaml

from muse_tools.compare.config import BASE_EMBEDDINGS
from muse_tools.compare.results import Interval
from muse_tools.pages.blocks import NO_VALUE, Difference, Entry, Point

TABLES: Final[dict[str, dict[str, Any]]] = yaml.safe_load(
    (importlib.resources.files(__package__) / "tables.yaml").read_text("utf-8")
)
"""``title``, ``text``, ``paper`` and, for groups, ``axis`` of each table."""


def interval(found: Interval | None, sign: str = "") -> Entry:
    """Returns value, interval and spread over seeds, on a line each."""
    if found is None or found.value is None:
        return (NO_VALUE,)
    lines = [f"{found.value:{sign}.4f}"]
    if found.lower is not None and found.upper is not None:
        lines.append(f"[{found.lower:{sign}.4f}, {found.upper:{sign}.4f}]")
    if found.spread is not None:
        lines.append(f"± {found.spread:.4f}")
    return tuple(lines)


def digits(value: float | None, places: int, unit: str = "") -> str:
    """Returns a number with `places` decimals and its unit."""
    return NO_VALUE if value is None else f"{value:.{places}f}{unit}"


def percent(share: float | None, places: int = 1) -> str:
    """Returns a share in percent."""
    return NO_VALUE if share is None else f"{100 * share:.{places}f} %"


def count(value: int | None) -> str:
    """Returns a number with thousands separators."""
    return NO_VALUE if value is None else f"{value:,}"


def vectors_name(embeddings: str) -> str:
    """Returns the name of item vectors for readers."""
    return "the pipeline's" if embeddings == BASE_EMBEDDINGS else embeddings


def joined(values: object) -> str:
    """Returns the values of a list as text; "" if it is not a list."""
    if not isinstance(values, list | tuple):
        return ""
    return ", ".join(map(str, values))


def sentence(text: str) -> str:
    """Returns a text that starts with a capital letter."""
    return text[:1].upper() + text[1:]


def point(x: float, found: Interval | None) -> Point | None:
    """Returns a chart point at `x`; None without a value."""
    if found is None or found.value is None:
        return None
    return Point(x, found.value, found.lower, found.upper)


def difference(
    name: str, found: Interval | None, note: str = NO_VALUE
) -> Difference:
    """Returns a row of a forest; `note` is shown if there is no value."""
    if found is None:
        return Difference(name, note=note)
    values = [value for value in found.by_seed if value is not None]
    return Difference(
        name,
        found.value,
        found.lower,
        found.upper,
        found.spread,
        values,
        note,
    )
