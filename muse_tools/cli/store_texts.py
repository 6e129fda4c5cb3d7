"""Users of behavior stores as text, as commands read and print them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from muse_tools.cli import output

if TYPE_CHECKING:
    from serving.stores import Kind, Layout, UserHistory


def named(kinds: Mapping[str, Kind]) -> str:
    """Returns names of features, with their kinds unless a single int64."""
    texts = []
    for name, (dtype, width) in kinds.items():
        many = f" of {width}" if width > 1 else ""
        plain = dtype == "int64" and not many
        texts.append(name if plain else f"{name} ({dtype}{many})")
    return ", ".join(texts) or "none"


def declaration(layout: Layout) -> str:
    """Returns name and digest of a store's declaration."""
    declared = layout.declared
    return f"{declared.name}, {layout.digest}" if declared else "none"


def typed(
    kinds: Mapping[str, Kind], given: Mapping[str, list[str]]
) -> dict[str, list[Any]]:
    """Returns values, as numbers if the store keeps float32.

    Raises:
        ValueError: if a value is not a number.
    """
    found: dict[str, list[Any]] = dict(given)
    for name, values in given.items():
        if name in kinds and kinds[name].dtype == "float32":
            try:
                found[name] = [float(one) if one else None for one in values]
            except ValueError as error:
                raise ValueError(
                    f"{name}: expected numbers. Received: {','.join(values)}"
                ) from error
    return found


def print_user(found: UserHistory, last: int, as_json: bool) -> None:
    """Prints a user's features and newest events, newest first."""
    newest = found.newest(last)
    item_ids = newest.item_ids[::-1].tolist()
    behaviors = {
        name: _shown(values[::-1]) for name, values in newest.behaviors.items()
    }
    user = found.user
    if user is not None:
        user = {name: _shown(value) for name, value in user.items()}
    times = (
        {} if newest.times is None else {"times": _shown(newest.times[::-1])}
    )
    if as_json:
        output.write_json(
            {
                "user_id": found.user_id,
                "user": user,
                "events": len(found),
                "has_rows": found.rows is not None,
                "newest": {
                    "item_ids": item_ids,
                    **times,
                    "behaviors": behaviors,
                },
            },
            indent=None,
        )
        return
    known = [f"{name} {value}" for name, value in (user or {}).items()]
    resolved = "" if found.rows is None else ", resolved to rows"
    lines = [
        f"user {found.user_id}: {', '.join([*known, ''])}{len(found)} events"
        f"{resolved}"
    ]
    columns = {"item": item_ids, **behaviors}
    if times:
        columns = {"item": item_ids, "time": times["times"], **behaviors}
    for event in zip(*columns.values(), strict=True):
        pairs = zip(columns, event, strict=True)
        lines.append(", ".join(f"{name} {value}" for name, value in pairs))
    output.write_lines(lines)


def _shown(values: Any) -> Any:
    """Returns values for JSON: NaN becomes None."""
    if isinstance(values, np.ndarray):
        return [_shown(one) for one in values.tolist()]
    if isinstance(values, list):
        return [_shown(one) for one in values]
    return None if values != values else values
