"""What follows from the signature of a constructor, and from that of a base."""

import inspect
import re
from typing import Any

import keras

_SECTION = re.compile(r"^(\w[\w ]*):$", re.MULTILINE)
_ARGUMENT = re.compile(r"^ {4}\**(\w+):", re.MULTILINE)


def complete_subclass(cls: type) -> None:
    """Complete the signature and docstring of a class by those of its base.

    A constructor that ends in `**kwargs` gets its base's further arguments,
    by name alone. Each argument is described as in the class or, if it is not
    there, as in its base; so are call arguments and output.
    """
    init: Any = cls.__init__  # type: ignore[misc]
    base: Any = cls.__base__
    own = dict(inspect.signature(init).parameters)
    if "__init__" in cls.__dict__:
        merged = dict(own)
        rest = merged.pop("kwargs")
        for name, given in inspect.signature(base.__init__).parameters.items():
            if name not in own:
                merged[name] = given.replace(
                    kind=inspect.Parameter.KEYWORD_ONLY
                )
        own = {**merged, "kwargs": rest}
        init.__signature__ = inspect.Signature(list(own.values()))
    # Keras's own signature of every model is `(*args, **kwargs)`.
    setattr(cls, "__signature__", inspect.Signature(list(own.values())[1:]))  # noqa: B010
    if not cls.__doc__ or not base.__doc__:
        return  # Python was told to leave docstrings out.
    mine, theirs = _sections(cls.__doc__), _sections(base.__doc__)
    described = _arguments(theirs["Args"]) | _arguments(mine.get("Args", ""))
    sections = {
        "": mine.pop(""),
        "Args": "\n".join(described[name] for name in own if name in described),
        "Call arguments": theirs["Call arguments"],
        "Output shape": theirs["Output shape"],
    }
    mine.pop("Args", None)
    cls.__doc__ = "\n\n".join(
        f"{name}:\n{text}" if name else text
        for name, text in (sections | mine).items()
    )


def attributes_of(layer: Any) -> dict[str, Any]:
    """Return the arguments of a layer's constructor that are attributes."""
    init: Any = type(layer).__init__
    found = {
        name: getattr(layer, name)
        for name in inspect.signature(init).parameters
        if hasattr(layer, name)
    }
    for name, value in found.items():
        if isinstance(value, dict):  # One of Keras's own, which tracks it.
            found[name] = dict(value)
        elif callable(value):
            found[name] = keras.activations.serialize(value)
    return found


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
