"""Reads YAML settings, applies overrides and returns a typed object."""

from __future__ import annotations

import copy
import difflib
import os
import pathlib
import reprlib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_args

import pydantic
import yaml


class ConfigError(ValueError):
    """A configuration file or an override cannot be used."""


class OverrideError(ConfigError):
    """An override has an unknown key or a wrong value."""


class Section(pydantic.BaseModel):
    """A section of a file; its docstrings describe its keys."""

    model_config = pydantic.ConfigDict(
        extra="forbid",
        frozen=True,
        validate_default=True,
        use_attribute_docstrings=True,
    )


_Settings = TypeVar("_Settings", bound=Section)
_SHOWN = 3


class _Loader(yaml.SafeLoader):
    """Refuses a mapping with a key that occurs twice."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """Reads a mapping; `MarkedYAMLError` names the repeated key."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if str(key.value) in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"key {key.value!r} occurs twice",
                    problem_mark=key.start_mark,
                )
            seen.add(str(key.value))
        return node


def read(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads a YAML mapping; any other file raises a one-line ConfigError."""
    try:
        # The path of an object opens itself.
        found: Any = path if hasattr(path, "open") else pathlib.Path(path)
        with found.open(encoding="utf-8") as file:
            values = yaml.load(file, _Loader) or {}
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: not valid YAML: {reason}") from error
    if not isinstance(values, dict):
        raise ConfigError(
            f"{path}: expected a mapping of settings. "
            f"Received: {type(values).__name__}"
        )
    return values


def parse(
    kind: type[_Settings],
    values: Mapping[str, Any],
    path: str | os.PathLike[str],
    keys: str,
    overrides: Sequence[str] = (),
) -> _Settings:
    """Turns what `read` returned into a ``kind``, after the overrides.

    Overrides are ``section.key=value``, the value in YAML. A ConfigError (an
    OverrideError if an override is wrong) names each key with the expected and
    the received value, and ends with ``keys``, where all keys are listed.
    """
    changed = copy.deepcopy({**values})
    for override in overrides:
        _apply_override(changed, override)
    try:
        return kind.model_validate(changed)
    except pydantic.ValidationError as error:
        errors = error.errors()
        said = [_problem(kind, item) for item in errors[:_SHOWN]]
        if len(errors) > _SHOWN:
            said.append(f"and {len(errors) - _SHOWN} more")
        problems = "; ".join([*said, keys])
        given = [one.partition("=")[0].split(".") for one in overrides]
        places = [[*map(str, item["loc"])] for item in errors]
        if any(k[: len(p)] == p[: len(k)] for k in given for p in places):
            raise OverrideError(problems) from error
        raise ConfigError(f"{path}: {problems}") from error


def _problem(kind: type[Section], item: Any) -> str:
    """Returns the message for one validation error of pydantic."""
    if not item["loc"]:
        return str(item["msg"]).removeprefix("Value error, ")
    *sections, leaf = map(str, item["loc"])
    key = ".".join([*sections, leaf])
    if item["type"] == "extra_forbidden":
        near = difflib.get_close_matches(leaf, _known(kind, sections), 1)
        hint = f"; did you mean {'.'.join([*sections, *near])}?" if near else ""
        received = reprlib.repr(item["input"])
        return f"{key}: there is no such key{hint} (received: {received})"
    if item["type"] == "missing":
        return f"{key}: must be given, it has no default"
    said = {
        "tuple_type": "expected a list, such as [64] or [a, b]",
        "model_type": f"expected a section; set its keys as in {key}.KEY=value",
    }.get(item["type"], item["msg"].removeprefix("Value error, "))
    if "eceived" in said:
        return f"{key}: {said}"
    return f"{key}: {said} (received: {item['input']!r})"


def _known(kind: type[Section], sections: Sequence[str]) -> Sequence[str]:
    """Returns the keys of a section, also inside a mapping with free keys."""
    here: Any = kind
    for section in sections:
        field = getattr(here, "model_fields", {}).get(section)
        here = field.annotation if field else here
        inside = (a for a in get_args(here) if hasattr(a, "model_fields"))
        here = next(inside, here)
    return [*getattr(here, "model_fields", ())]


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise OverrideError(
            "an override has the form section.key=value. "
            f"Received: {override!r}"
        )
    *sections, leaf = key.split(".")
    target = values
    for section in sections:
        child = target.setdefault(section, {})
        if not isinstance(child, dict):
            raise OverrideError(f"{section!r} in {override!r} is not a section")
        target = child
    try:
        target[leaf] = yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise OverrideError(
            f"{override!r}: not valid YAML: {reason}"
        ) from error
