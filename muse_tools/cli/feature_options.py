"""Feature options NAME=VALUE, parsed by the types that a model declares."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from muse_tools.cli import output

if TYPE_CHECKING:
    from serving.client import TensorSpec


def _named(values: list[str] | None) -> list[str]:
    for value in values or ():
        with output.wrong_usage():
            if not value.partition("=")[0] or "=" not in value:
                raise ValueError(
                    "a feature has the form NAME=VALUE, lists with commas: "
                    f"NAME=V1,V2. Received: {value!r}"
                )
    return values or []


UserFeatureOption = Annotated[
    list[str] | None,
    typer.Option(
        "--user-feature",
        help="NAME=VALUE of the user, replaces the value in --data; a list is "
        "NAME=V1,V2. Repeatable.",
        callback=_named,
    ),
]
ContextOption = Annotated[
    list[str] | None,
    typer.Option(
        "--context",
        help="NAME=VALUE of the request, such as device=phone. Repeatable.",
        callback=_named,
    ),
]
CandidateFeatureOption = Annotated[
    list[str] | None,
    typer.Option(
        "--candidate-feature",
        help="NAME=V1,V2 with a value for each of --candidates; lists are "
        "JSON, NAME=[[V1,V2],[V3]]. Repeatable.",
        callback=_named,
    ),
]
SchemaOption = Annotated[
    str,
    typer.Option(
        "--schema",
        help="Declaration of the data, which maps texts to ids: a file, or "
        "taobao_mm or complete_journey.",
    ),
]


def read_features(
    option: str,
    prefix: str,
    given: Sequence[str] | None,
    inputs: Mapping[str, TensorSpec],
) -> dict[str, Any]:
    """Returns features by name; an undeclared feature stays a text.

    Args:
        option: name of the option, for error messages.
        prefix: prefix of input names: `user_`, `context_` or `candidate_`.
        given: texts NAME=VALUE.
        inputs: inputs of the signature `rank`.

    Raises:
        BadParameter: if a value has a wrong type.
    """
    found = {}
    for text in given or ():
        name, _, value = text.partition("=")
        spec = inputs.get(prefix + name)
        with output.wrong_usage(option):
            found[name] = _value(name, value, spec, prefix == "candidate_")
    return found


def _value(name: str, text: str, spec: TensorSpec | None, each: bool) -> Any:
    if text.startswith("["):
        try:
            return json.loads(text)
        except ValueError as error:
            raise ValueError(f"{name}: is not JSON: {error}") from error
    is_float = spec is not None and spec.dtype == "float"
    is_list = each or (spec is not None and len(spec.shape or ()) > 1)
    parts = text.split(",") if is_list else [text]
    values = [_number(name, part) if is_float else part for part in parts]
    return values if is_list else values[0]


def _number(name: str, text: str) -> float | None:
    try:
        return float(text) if text else None
    except ValueError as error:
        raise ValueError(
            f"{name}: expected a number. Received: {text!r}"
        ) from error
