"""Writes down the public names of `muse_keras` and how they are called.

    .venv/bin/python scripts/public_api.py

The file it writes, tests/muse_keras/public_api.txt, is compared with the code
by a test. So a changed name, argument, place or default shows in a diff, and
its effect on callers can be judged.
"""

from __future__ import annotations

import importlib
import inspect
import pathlib
import sys
from collections.abc import Iterator
from typing import Any

ROOT = pathlib.Path(__file__).resolve().parents[1]
FILE = ROOT / "tests" / "muse_keras" / "public_api.txt"


def public_objects() -> Iterator[tuple[str, str, Any]]:
    """Yields module, name and object of everything public, in order."""
    package = importlib.import_module("muse_keras")
    for part in sorted(package.__all__):
        module = importlib.import_module(f"muse_keras.{part}")
        for name in sorted(module.__all__):
            yield module.__name__, name, getattr(module, name)


def parameters(function: Any) -> list[inspect.Parameter]:
    """What a function, or the constructor of a class, is given."""
    if not inspect.isclass(function):
        return list(inspect.signature(function).parameters.values())
    # Not the class's signature: what that is depends on Keras's backend.
    tuples = issubclass(function, tuple)
    constructor = function.__new__ if tuples else function.__init__
    if getattr(constructor, "__module__", "").startswith("keras."):
        return [inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD)]
    return list(inspect.signature(constructor).parameters.values())[1:]


def signature(function: Any) -> str:
    """How to call something: names, places and defaults, without types."""
    empty = inspect.Parameter.empty
    return str(
        inspect.Signature(
            [
                parameter.replace(annotation=empty)
                for parameter in parameters(function)
            ]
        )
    )


def methods(value: type) -> Iterator[tuple[str, Any]]:
    """Public methods and properties that are a class's own.

    Those of a base class are its own, too, unless the base is public and
    shows them itself.
    """
    public = {member for _, _, member in public_objects()} - {value}
    found = {}
    for base in reversed(value.__mro__):
        ours = base.__module__.partition(".")[0] == "muse_keras"
        if ours and base not in public:
            found |= vars(base)
    for name in sorted(found):
        member = found[name]
        if isinstance(member, classmethod | staticmethod):
            member = member.__func__
        if name.startswith("_"):
            continue
        if inspect.isfunction(member) or hasattr(member, "__get__"):
            yield name, member


def lines() -> Iterator[str]:
    """Yields a line for everything that can be called or read."""
    for module, name, value in public_objects():
        path = f"{module}.{name}"
        if not inspect.isclass(value):
            yield path + signature(value)
            continue
        yield path + signature(value)
        for member, function in methods(value):
            if inspect.isfunction(function):
                yield f"{path}.{member}{signature(function)}"
            else:
                yield f"{path}.{member}"


def text() -> str:
    """The whole file."""
    return "\n".join(lines()) + "\n"


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    FILE.write_text(text(), encoding="utf-8")
    print(f"{FILE.relative_to(ROOT)}: {len(text().splitlines())} lines")
