"""Options of the generated data sets: defaults, limits and help texts.

The generators check their options here, and ``muse data`` builds its command
line from the same fields, so this module imports nothing heavy.
"""

from __future__ import annotations

import dataclasses
from typing import Any

LAST_WEEK = 53
MAX_HISTORY = 100_000


def _option(
    default: Any, meaning: str, least: float = 0, most: float | None = None
) -> Any:
    return dataclasses.field(
        default=default,
        metadata={"help": meaning, "least": least, "most": most},
    )


class _Checked:
    """Checks every number against the limits of its field."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if isinstance(value, list):  # As YAML has it.
                object.__setattr__(self, field.name, tuple(value))
            if isinstance(value, (list, tuple)):
                continue
            least, most = field.metadata["least"], field.metadata["most"]
            if value < least or (most is not None and value > most):
                to = "or more" if most is None else f"to {most:,}"
                raise ValueError(
                    f"{field.name}: expected {least:,} {to}. Received: {value}"
                )


@dataclasses.dataclass(frozen=True)
class CompleteJourneyOptions(_Checked):
    """Options of `complete_journey.generate`."""

    seed: int = _option(20170101, "Seed of every random choice.")
    negatives: int = _option(10, "Negatives per positive.", 1)
    max_history: int = _option(
        1000, "Longest history; the newest purchases are kept.", 1
    )
    train_weeks: tuple[int, int] = _option(
        (42, 49), "Weeks of train positives, e.g. 42-49."
    )
    test_weeks: tuple[int, int] = _option(
        (50, 53), "Weeks of test positives, after those of train."
    )
    max_positives_per_user: int = _option(
        16, "Train positives per household; 0: all."
    )
    max_test_positives_per_user: int = _option(
        6, "Test positives per household; 0: all."
    )
    users: int = _option(0, "Households, chosen by the seed; 0: all 2,469.")
    search_events: int = _option(
        60_000,
        "Stand-ins for searches at most; 0: none, and no item content.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("train_weeks", "test_weeks"):
            first, last = getattr(self, name)
            if not 2 <= first <= last <= LAST_WEEK:
                raise ValueError(
                    f"{name}: expected 2 <= first <= last <= {LAST_WEEK}. "
                    f"Received: {first}-{last}"
                )
        if self.train_weeks[1] >= self.test_weeks[0]:
            raise ValueError(
                "test_weeks: expected to start after the train weeks "
                f"{self.train_weeks[0]}-{self.train_weeks[1]}. Received: "
                f"{self.test_weeks[0]}-{self.test_weeks[1]}"
            )


@dataclasses.dataclass(frozen=True)
class SyntheticOptions(_Checked):
    """Options of `synth.generate`."""

    users: int = _option(10_000, "Users, all of them in train.", 10, 1 << 40)
    items: int = _option(50_000, "Items.", 100, 1 << 31)
    history: int = _option(1_000, "Longest history.", 1, MAX_HISTORY)
    seed: int = _option(0, "Seed of every random choice.", 0, 1 << 62)
    candidates: int = _option(11, "Impressions per user and split.", 1, 1000)
    click_rate: float = _option(0.137, "Expected share of clicks.", 0, 0.9)
    test_users: float = _option(
        0.3, "Share of users with test impressions.", 0, 1
    )
    new_items: float = _option(
        0.05, "Share of items that occur only as test candidates.", 0, 0.5
    )
    missing_embeddings: float = _option(
        0.1, "Share of items without a vector, mostly rare ones.", 0, 0.5
    )
    padded_users: float = _option(
        0.1, "Share of short histories with zeros in front.", 0, 1
    )
    broken: int = _option(0, "Broken rows of each kind to add.", 0, 1 << 20)
    search_events: int = _option(
        20_000,
        "Searches that led to a purchase; 0: none, and no item content.",
        0,
        1 << 34,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("click_rate", "test_users"):
            if not getattr(self, name):
                raise ValueError(f"{name}: expected above 0. Received: 0")
