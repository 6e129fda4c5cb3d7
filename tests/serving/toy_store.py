"""What the stores of the tests keep: the features of the toy models."""

from __future__ import annotations

from collections.abc import Iterable

from serving.stores import Layout

LAYOUT = Layout(
    user=("profile_1", "profile_2", "profile_3", "profile_4", "profile_5"),
    behaviors=("category",),
)


def user(values: Iterable[int]) -> dict[str, int]:
    """User features of five ids."""
    return dict(zip(LAYOUT.user, map(int, values), strict=True))
