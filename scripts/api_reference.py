"""Writes the API reference of `muse_keras` from its docstrings.

    .venv/bin/python scripts/api_reference.py FOLDER

One Markdown page for each public module, and an index. Nothing of it is
committed: `make docs` writes it into `build/api`.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import pathlib
import re
import sys
from collections.abc import Iterator
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import public_api  # noqa: E402

# A heading of a docstring, on a line of its own or before its text.
SECTION = re.compile(
    r"^(Args|Arguments|Attributes|Call arguments|Input shape|Output shape|"
    r"Returns|Raises|Reference|Example|Yields):(.*)$"
)
# What every layer and model has, described by Keras.
KERAS = {
    "build",
    "call",
    "compute_mask",
    "compute_output_shape",
    "compute_output_spec",
    "get_config",
}


def main() -> None:
    """Writes the pages."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=pathlib.Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    written = pages()
    for name, page in written.items():
        (folder / name).write_text(page, encoding="utf-8")
    print(f"{folder / 'index.md'}: {len(written) - 1} modules")


def pages() -> dict[str, str]:
    """All pages by file name."""
    objects: dict[str, list[tuple[str, Any]]] = {}
    for module, name, value in public_api.public_objects():
        objects.setdefault(module, []).append((name, value))
    index = ["# API reference", ""]
    found = {}
    for module, members in objects.items():
        file = f"{module.rpartition('.')[2]}.md"
        about = inspect.getdoc(importlib.import_module(module)) or ""
        index += [f"## [{module}]({file})", "", first_line(about), ""]
        page = [f"# {module}", "", about, ""]
        for name, value in members:
            summary = first_line(inspect.getdoc(value) or "")
            index.append(f"- [`{name}`]({file}#{name.lower()}): {summary}")
            page += entry(name, value)
        index.append("")
        found[file] = tidy(page)
    found["index.md"] = tidy(index)
    return found


def tidy(lines: list[str]) -> str:
    """A page without more than one empty line anywhere."""
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip() + "\n"


def entry(name: str, value: Any) -> Iterator[str]:
    """Yields the lines on one class or function."""
    yield from (f"## {name}", "", "```text", called(name, value), "```", "")
    yield from markdown(inspect.getdoc(value) or "")
    if not inspect.isclass(value):
        return
    for member, function in public_api.methods(value):
        about = inspect.getdoc(function)
        if member in KERAS or not about or not inspect.isfunction(function):
            continue
        title = f"{name}.{member}"
        call = called(member, function).replace("(self, ", "(", 1)
        call = call.replace("(self)", "()", 1)
        yield from (f"### {title}", "", "```text", call, "```", "")
        yield from markdown(about)


def called(name: str, value: Any) -> str:
    """A call with all arguments, broken into lines if it is long."""
    text = name + public_api.signature(value)
    if len(text) <= 80:
        return text
    # A default that is a tuple has digits after its commas.
    arguments = re.split(r", (?=[A-Za-z_*/])", text[len(name) + 1 : -1])
    return "\n".join([f"{name}(", *(f"    {a}," for a in arguments), ")"])


def markdown(docstring: str) -> Iterator[str]:
    """Yields a docstring as Markdown: sections, lists and code."""
    section, code = "", False
    for line in docstring.splitlines():
        heading = SECTION.match(line)
        in_code = section == "Example" and line.startswith((">>>", "..."))
        if heading:
            if code:
                yield "```"
            code, section = False, heading[1]
            yield from ("", f"**{section}**{heading[2]}", "")
        elif in_code and not code:
            code = True
            yield from ("```python", line)
        elif section in ("", "Reference", "Example"):
            if section == "Example" and not line and code:
                yield "```"
                code = False
            yield line
        elif re.match(r"^ {4}[*\w]+:", line):
            argument, _, text = line.strip().partition(":")
            yield f"- `{argument}`:{text}"
        else:
            yield line.removeprefix("    ")
    if code:
        yield "```"
    yield ""


def first_line(docstring: str) -> str:
    """The summary of a docstring."""
    return docstring.partition("\n")[0]


if __name__ == "__main__":
    main()
