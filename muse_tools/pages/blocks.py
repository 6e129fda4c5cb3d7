"""Typed blocks, of which pages consist; Markdown and HTML render them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import ClassVar, Literal

NO_VALUE = "–"

Entry = tuple[str, ...]
"""Lines of a table's entry; the first one is the most important."""


@dataclasses.dataclass(frozen=True)
class Heading:
    """A title; `id` is the target of links, `note` a short addition."""

    kind: ClassVar[str] = "heading"
    text: str
    level: Literal[1, 2, 3] = 2
    id: str = ""
    note: str = ""


@dataclasses.dataclass(frozen=True)
class Text:
    """A paragraph."""

    kind: ClassVar[str] = "text"
    text: str
    style: Literal["", "soft", "verdict"] = ""


@dataclasses.dataclass(frozen=True)
class Bullets:
    """A list of short sentences."""

    kind: ClassVar[str] = "bullets"
    items: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Contents:
    """Links to headings; only in HTML."""

    kind: ClassVar[str] = "contents"
    headings: Sequence[Heading]


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of entries; all columns but the first `names` hold numbers."""

    kind: ClassVar[str] = "table"
    columns: Sequence[str]
    rows: Sequence[Sequence[Entry]]
    names: int = 1


@dataclasses.dataclass(frozen=True)
class Point:
    """A point of a chart, with the ends of its interval if it has one."""

    x: float
    y: float
    lower: float | None = None
    upper: float | None = None


@dataclasses.dataclass(frozen=True)
class Line:
    """The points of one series in a chart."""

    name: str
    points: Sequence[Point]


@dataclasses.dataclass(frozen=True)
class Chart:
    """A chart; only in HTML, since its numbers are in tables or tooltips.

    Attributes:
        title: for screen readers.
        x: name of the horizontal axis.
        y: name of the vertical axis.
        lines: the series, with one color each; a model has the same color on
            the whole page.
        caption: text below the chart.
        style: curves, dots with intervals, or bars.
        categories: names along the horizontal axis; a point's `x` is then the
            index of a name.
        base: value that a horizontal line marks and where bars start.
        diagonal: whether the line y = x is drawn.
    """

    kind: ClassVar[str] = "chart"
    title: str
    x: str
    y: str
    lines: Sequence[Line]
    caption: str = ""
    style: Literal["curves", "dots", "bars"] = "curves"
    categories: Sequence[str] = ()
    base: float | None = None
    diagonal: bool = False


@dataclasses.dataclass(frozen=True)
class Difference:
    """A difference with its interval and the value of each seed."""

    name: str
    value: float | None = None
    lower: float | None = None
    upper: float | None = None
    spread: float | None = None
    by_seed: Sequence[float] = ()
    note: str = NO_VALUE
    """Text that is shown if there is no value."""

    @property
    def verdict(self) -> Literal["above", "below", "open", "none"]:
        """The position of the interval; ``open`` includes 0."""
        if self.value is None or self.lower is None or self.upper is None:
            return "none"
        if self.lower > 0:
            return "above"
        return "below" if self.upper < 0 else "open"

    @property
    def numbers(self) -> str:
        """The value and its interval as text."""
        if self.value is None:
            return self.note
        text = f"{self.value:+.4f}"
        if self.lower is not None and self.upper is not None:
            text += f" [{self.lower:+.4f}, {self.upper:+.4f}]"
        return text if self.spread is None else f"{text} ± {self.spread:.4f}"


@dataclasses.dataclass(frozen=True)
class Forest:
    """Differences on a common axis, each with its name and a picture.

    A text in `rows` is the heading of the differences after it. Only in HTML.
    """

    kind: ClassVar[str] = "forest"
    rows: Sequence[str | Difference]
    caption: str = ""


@dataclasses.dataclass(frozen=True)
class Claim:
    """A statement with its verdict and the differences that decide it."""

    kind: ClassVar[str] = "claim"
    text: str
    status: str
    reason: str
    style: Literal["yes", "no", "open"]
    differences: Sequence[Difference]

    @property
    def forest(self) -> Forest:
        """The differences as a picture."""
        return Forest(self.differences)


@dataclasses.dataclass(frozen=True)
class Code:
    """Preformatted text, such as settings in JSON; only in HTML."""

    kind: ClassVar[str] = "code"
    text: str


@dataclasses.dataclass(frozen=True)
class Details:
    """Blocks that can be unfolded; only in HTML."""

    kind: ClassVar[str] = "details"
    title: str
    blocks: Sequence[Table | Code]


Block = (
    Heading
    | Text
    | Bullets
    | Contents
    | Table
    | Chart
    | Forest
    | Claim
    | Code
    | Details
)
