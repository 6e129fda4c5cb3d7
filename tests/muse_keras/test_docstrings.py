"""What every public docstring must say."""

import inspect
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
import api_reference  # noqa: E402
import public_api  # noqa: E402

OBJECTS = {
    f"{module}.{name}": value
    for module, name, value in public_api.public_objects()
}
SHAPED = ("muse_keras.layers.", "muse_keras.models.", "muse_keras.compat.")
# What cannot be made by itself: there is nothing to run.
ABSTRACT = {
    "BaseRanker",
    "BehaviorSearch",
    "ExactSearchUnit",
    "RequestModel",
}


def plain(value):
    """Whether this is an exception or a named tuple."""
    return inspect.isclass(value) and issubclass(value, Exception | tuple)


def arguments(value):
    """Names of what a caller gives."""
    found = [parameter.name for parameter in public_api.parameters(value)]
    return [name for name in found if name not in ("args", "kwargs")]


def with_bases(value):
    """A docstring, then those of the classes that it may refer to."""
    if not inspect.isclass(value):
        return inspect.getdoc(value)
    return "\n".join(
        inspect.cleandoc(base.__doc__ or "")
        for base in value.__mro__
        if base.__module__.startswith("muse_keras.")
    )


@pytest.mark.parametrize("path", OBJECTS)
def test_docstring(path):
    value, name = OBJECTS[path], path.rpartition(".")[2]
    text = value.__doc__ or ""
    assert text, f"{path} has no docstring"
    if plain(value):
        return
    everything = with_bases(value)
    for argument in arguments(value):
        described = rf"^ +{argument}: "
        assert re.search(described, everything, re.M), f"{path}: {argument}"
    if name not in ABSTRACT:
        assert ">>>" in text, f"{path} has no example"
    module = getattr(getattr(value, "call", None), "__module__", "")
    if path.startswith(SHAPED) and module.startswith("muse_keras."):
        for section in ("Call arguments", "Output shape"):
            about = f"{path} does not tell: {section}"
            assert section in everything, about


def test_the_reference_shows_everything():
    pages = api_reference.pages()
    assert set(pages) >= {"index.md", "layers.md", "models.md", "tables.md"}
    for path in OBJECTS:
        _, module, name = path.split(".")
        assert f"## {name}\n" in pages[f"{module}.md"]
        assert f"({module}.md#{name.lower()})" in pages["index.md"]
    layers = pages["layers.md"]
    assert "- `num_tiers`: int, number of tiers N." in layers
    assert "### SimTier.count" in layers
    assert "### SimTier.build" not in layers
    assert "```python\n>>> import numpy as np" in layers
    for page in pages.values():
        assert page.count("```") % 2 == 0
