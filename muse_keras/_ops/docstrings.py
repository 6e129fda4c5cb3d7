"""Docstrings of classes that differ in little from their base."""

import inspect
import re

_SECTION = re.compile(r"^(\w[\w ]*):$", re.MULTILINE)
_ARGUMENT = re.compile(r"^ {4}\**(\w+):", re.MULTILINE)


def complete_docstring(cls: type) -> None:
    """Write what the docstring of a class leaves to its base's into it.

    Each argument of the constructor is described as in the class or, if it
    is not there, as in its base; so are call arguments and output.
    """
    own, base = cls.__doc__, cls.__base__.__doc__ if cls.__base__ else None
    if not own or not base:  # Python was told to leave docstrings out.
        return
    mine, theirs = _sections(own), _sections(base)
    described = _arguments(theirs["Args"]) | _arguments(mine.get("Args", ""))
    sections = {
        "": mine.pop(""),
        "Args": "\n".join(
            described[name]
            for name in inspect.signature(cls.__init__).parameters  # type: ignore[misc]
            if name in described
        ),
        "Call arguments": theirs["Call arguments"],
        "Output shape": theirs["Output shape"],
    }
    mine.pop("Args", None)
    cls.__doc__ = "\n\n".join(
        f"{name}:\n{text}" if name else text
        for name, text in (sections | mine).items()
    )


def _sections(docstring: str) -> dict[str, str]:
    """Return sections by name; the name of what comes first is empty."""
    parts = _SECTION.split(inspect.cleandoc(docstring))
    return {
        name: text.strip("\n")
        for name, text in zip(["", *parts[1::2]], parts[::2], strict=True)
    }


def _arguments(section: str) -> dict[str, str]:
    """Return the description of each argument, with its name."""
    starts = list(_ARGUMENT.finditer(section))
    ends = [start.start() for start in starts[1:]] + [len(section)]
    return {
        start[1]: section[start.start() : end].strip("\n")
        for start, end in zip(starts, ends, strict=False)
    }
