"""docs/serving-conformance.md names tests that exist, and all of them."""

from __future__ import annotations

import ast
import functools
import pathlib
import re

ROOT = pathlib.Path(__file__).parents[3]
HERE = pathlib.Path(__file__).parent
PAGE = ROOT / "docs" / "serving-conformance.md"
NAME = re.compile(r"`([\w/]+)::(\w+)`")


@functools.cache
def functions_of(file: pathlib.Path) -> frozenset[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return frozenset(
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    )


def named() -> set[tuple[pathlib.Path, str]]:
    found = set()
    for place, test in NAME.findall(PAGE.read_text(encoding="utf-8")):
        folder = ROOT if "/" in place else HERE
        found.add((folder / f"{place}.py", test))
    return found


def test_every_test_of_the_page_exists():
    missing = [
        f"{file.name}::{test}"
        for file, test in named()
        if not file.exists() or test not in functions_of(file)
    ]
    assert len(named()) > 60 and not missing


def test_every_conformance_test_is_on_the_page():
    on_page = named()
    left_out = [
        f"{file.name}::{test}"
        for file in HERE.glob("test_*_conformance.py")
        for test in functions_of(file)
        if (file, test) not in on_page
    ]
    assert not left_out


def test_every_row_names_a_test():
    text, without = PAGE.read_text(encoding="utf-8").split("## Rows without")
    rows = [
        line
        for line in text.splitlines()
        if line.startswith("| ") and not line.startswith("| case |")
    ]
    assert len(rows) > 40
    assert not [row for row in rows if not NAME.search(row)]
    assert len(re.findall(r"^\| (?!what was)", without, re.M)) >= 5
