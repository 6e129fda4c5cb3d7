"""Values of options that Click has no type for."""

from __future__ import annotations

from typing import Annotated

import typer

from muse_tools.cli import output
from serving.addresses import split_address

__all__ = ["SetOption", "grpc_target", "parse_ids", "positive"]


def positive(value: float) -> float:
    """A callback: the seconds of a timeout."""
    with output.wrong_usage():
        if not 0 < value < float("inf"):
            raise ValueError(f"must be above 0. Received: {value}")
    return value


def grpc_target(value: str | None) -> str | None:
    """A callback: the address of a model server."""
    with output.wrong_usage():
        if value is not None:
            split_address(value)
    return value


def _overrides(values: list[str] | None) -> list[str]:
    """A callback: overrides of a configuration, by their form."""
    for value in values or ():
        with output.wrong_usage():
            if not value.partition("=")[0] or "=" not in value:
                raise ValueError(
                    "an override has the form section.key=value. "
                    f"Received: {value!r}"
                )
    return values or []


SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Override, e.g. --set model.type=din. Repeatable.",
        callback=_overrides,
    ),
]


def parse_ids(option: str, text: str) -> list[int]:
    """Reads ids, separated by commas or spaces; at least one."""
    with output.wrong_usage(option):
        try:
            found = [int(part) for part in text.replace(",", " ").split()]
        except ValueError:
            found = []
        if not found or not all(-(2**63) <= one < 2**63 for one in found):
            raise ValueError(
                "expected ids like 11,12,13, of 64 bits each. "
                f"Received: {text!r}"
            )
    return found
