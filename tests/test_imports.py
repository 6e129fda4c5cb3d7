"""The direction of imports that docs/architecture.md states."""

from __future__ import annotations

import ast
import itertools
import pathlib
import re
from collections.abc import Iterator

import pytest

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ("muse_keras", "muse_tools", "schemas", "serving", "tfx_pipeline")


def layers() -> dict[str, int]:
    """The rooms and their heights: the first code block after the heading."""
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    block = re.search(
        r"## Direction of imports\n.*?```text\n(.*?)```", page, re.DOTALL
    )
    assert block is not None
    return {
        room: height
        for height, line in enumerate(block[1].splitlines())
        for room in line.split()
    }


def room_of(module: str, heights: dict[str, int]) -> str | None:
    """The innermost stated room that a module is in."""
    parts = module.split(".")
    for end in range(len(parts), 0, -1):
        room = ".".join(parts[:end])
        if room in heights:
            return room
    return None


def imports() -> Iterator[tuple[str, str]]:
    """Every import of our own, inside functions too."""
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
            module = module.removesuffix(".__init__")
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom) and node.module:
                    names = [f"{node.module}.{a.name}" for a in node.names]
                else:
                    continue
                for name in names:
                    if name.split(".")[0] in PACKAGES:
                        yield module, name


def test_every_module_is_in_a_room():
    heights = layers()
    for module, _ in imports():
        assert room_of(module, heights), module


def test_rooms_exist():
    for room in layers():
        path = ROOT.joinpath(*room.split("."))
        assert path.is_dir() or path.with_suffix(".py").exists(), room


def test_no_import_goes_upwards():
    heights = layers()
    wrong = []
    for module, name in imports():
        of, to = room_of(module, heights), room_of(name, heights)
        if of != to and to and heights[of] <= heights[to]:
            wrong.append(f"{module} imports {name}")
    assert not wrong, "\n".join(sorted(set(wrong)))


@pytest.mark.parametrize("pair", [("muse_tools.cli", "serving.client")])
def test_the_page_is_read(pair):
    heights = layers()
    above, below = pair
    assert heights[above] > heights[below]
    assert len(heights) > 30
    assert list(itertools.islice(imports(), 100))


def test_the_page_names_files_that_exist():
    page = (ROOT / "docs/architecture.md").read_text(encoding="utf-8")
    named = re.findall(
        r"`((?:configs|docs|muse_keras|muse_tools|schemas|scripts|serving|tests"
        r"|tfx_pipeline)/[\w/.-]*)`",
        page,
    )
    assert len(named) > 40
    assert not [name for name in named if not (ROOT / name).exists()]
