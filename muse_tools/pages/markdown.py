"""Renders blocks as Markdown, for a terminal and for files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from muse_tools.pages.blocks import Block, Bullets, Claim, Heading, Table, Text


def to_markdown(blocks: Iterable[Block]) -> str:
    """Returns blocks as Markdown; blocks that are only in HTML are left out."""
    parts = ["\n".join(lines) for lines in map(_lines, blocks) if lines]
    return "\n\n".join(parts) + "\n"


def _lines(block: Block) -> list[str]:
    if isinstance(block, Heading):
        note = f" ({block.note})" if block.note else ""
        return [f"{'#' * block.level} {block.text}{note}"]
    if isinstance(block, Text):
        return [block.text]
    if isinstance(block, Bullets):
        return [f"- {item}" for item in block.items]
    if isinstance(block, Table):
        return list(_table(block))
    if isinstance(block, Claim):
        return [
            f"- **{block.status}**: {block.text}"
            + ("" if block.style == "yes" else f" ({block.reason})"),
            *(f"  - {one.name} {one.numbers}" for one in block.differences),
        ]
    return []


def _table(table: Table) -> Iterator[str]:
    yield f"| {' | '.join(table.columns)} |"
    yield f"|{'|'.join('---' for _ in table.columns)}|"
    for row in table.rows:
        entries = (" ".join(filter(None, lines)) for lines in row)
        yield f"| {' | '.join(entry.replace('|', '/') for entry in entries)} |"
