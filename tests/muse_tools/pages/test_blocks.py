"""The same blocks as Markdown and as HTML."""

from __future__ import annotations

from muse_tools.pages import html
from muse_tools.pages.blocks import (
    Bullets,
    Chart,
    Claim,
    Code,
    Contents,
    Details,
    Difference,
    Forest,
    Heading,
    Line,
    Point,
    Table,
    Text,
)
from muse_tools.pages.markdown import to_markdown
from tests.muse_tools.pages.page import self_contained

EVIL = "<b>|&"
BLOCKS = [
    Heading("Title", 1),
    Contents([Heading("Part", 3, "part")]),
    Heading("Part", 3, "part", "paper"),
    Text(f"Words {EVIL}", "soft"),
    Bullets(["one", "two"]),
    Table(["name", "value"], [[(EVIL, "(more)"), ("1", "[0, 2]", "")]]),
    Chart("chart", "x", "y", [Line(EVIL, [Point(1, 2), Point(2, 3)])]),
    Forest([Difference("a", 0.1)]),
    Claim("A > B", "confirmed", "why", "yes", [Difference("a", 1.0, 0.5, 2)]),
    Claim("B > A", "not confirmed", "why", "no", []),
    Details("more", [Code('{"a": 1}')]),
]


def test_markdown_has_words_and_tables():
    assert to_markdown(BLOCKS) == (
        "# Title\n\n### Part (paper)\n\nWords <b>|&\n\n- one\n- two\n\n"
        "| name | value |\n|---|---|\n| <b>/& (more) | 1 [0, 2] |\n\n"
        "- **confirmed**: A > B\n  - a +1.0000 [+0.5000, +2.0000]\n\n"
        "- **not confirmed**: B > A (why)\n"
    )


def test_html_has_everything_and_escapes_it():
    page = self_contained(html.page(EVIL, BLOCKS))
    text = " ".join(" ".join(page.text).split())
    assert page.under["part"] == [
        [["name", "value"], [f"{EVIL} (more)", "1 [0, 2]"]]
    ]
    for expected in (f"Words {EVIL}", "one", "Confirmed.", '{"a": 1}'):
        assert expected in text
    labels = [a["aria-label"] for tag, a in page.tags if "aria-label" in a]
    assert "chart" in labels and "its interval is above 0" in labels
    assert ("a", {"href": "#part"}) in page.tags
