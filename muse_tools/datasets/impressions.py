"""Constructs impressions and histories from purchases.

These are pure functions of arrays; random choices come from a generator that
the caller passes in.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt
import pandas as pd

from muse_tools.datasets.arrow_lists import (
    Ints,
    Mask,
    find_sorted,
    ranges,
    rank_in_group,
)

_MAX_WEEK = 64
_CHUNK = 2048


@dataclasses.dataclass(frozen=True)
class Purchases:
    """Purchases: int64 columns (N,), sorted by household, then time."""

    household: Ints
    product: Ints
    store: Ints
    week: Ints
    seconds: Ints

    def __len__(self) -> int:
        return len(self.household)

    def where(self, keep: Mask | Ints) -> Purchases:
        """Returns the rows where `keep` (N,) is true, or rows by position."""
        return Purchases(
            *(getattr(self, f.name)[keep] for f in dataclasses.fields(self))
        )


@dataclasses.dataclass(frozen=True)
class Impressions:
    """Constructed impressions: columns (N,), and counts by name."""

    household: Ints
    product: Ints
    click: npt.NDArray[np.int8]
    counts: dict[str, int]


def choose_positives(
    window: Purchases, limit: int, rng: np.random.Generator
) -> tuple[Purchases, int]:
    """Chooses a window's positives, at most `limit` per household; 0: all.

    Returns one row per (household, product, week), in order of household and
    time, and the number of such rows before the limit.
    """
    bought = pd.DataFrame(vars(window))
    repeated = bought.duplicated(["household", "product", "week"])
    rows = np.flatnonzero(~repeated)
    available = len(rows)
    if limit:
        shuffled = rows[rng.permutation(available)]
        by_household = shuffled[
            np.argsort(window.household[shuffled], kind="stable")
        ]
        rank = rank_in_group(window.household[by_household])
        rows = np.sort(by_household[rank < limit])
    return window.where(rows), available


def sample_negatives(
    positives: Purchases,
    window: Purchases,
    sold: Purchases,
    negatives: int,
    rng: np.random.Generator,
) -> tuple[Ints, Ints]:
    """Draws negatives for each positive from its store and week.

    Weighted sampling without replacement by exponential races: product j with
    weight w_j gets the key Exp(1) / w_j, and the smallest keys win. This is
    equivalent to drawing one product after the other in proportion to the
    remaining weights (Efraimidis and Spirakis, 2006).

    Returns int64 (M,): the row of the positive, and the negative product.
    """
    place = sold.store * _MAX_WEEK + sold.week
    products, code = np.unique(sold.product, return_inverse=True)
    size = np.int64(len(products))
    places, place_code = np.unique(place, return_inverse=True)
    pairs, weights = np.unique(place_code * size + code, return_counts=True)
    start = np.searchsorted(pairs, np.arange(len(places) + 1) * size)
    offered = pairs % size

    households, household_code = np.unique(
        window.household, return_inverse=True
    )
    position, known = find_sorted(products, window.product)
    bought = np.unique(household_code[known] * size + position[known])

    my_place = np.searchsorted(
        places, positives.store * _MAX_WEEK + positives.week
    )
    my_household = np.searchsorted(households, positives.household)
    all_rows = []
    all_products = []
    for begin in range(0, len(positives), _CHUNK):
        part = slice(begin, min(begin + _CHUNK, len(positives)))
        lengths = np.diff(start)[my_place[part]]
        row = np.repeat(np.arange(part.start, part.stop), lengths)
        offer = ranges(start[my_place[part]], lengths)
        item = offered[offer]
        mine = my_household[row] * size + item
        key = rng.standard_exponential(len(offer)) / weights[offer]
        eligible = ~find_sorted(bought, mine)[1]
        row, item, key = row[eligible], item[eligible], key[eligible]
        order = np.lexsort((key, row))
        row, item = row[order], item[order]
        won = rank_in_group(row) < negatives
        all_rows.append(row[won])
        all_products.append(products[item[won]])
    if not all_rows:
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    return np.concatenate(all_rows), np.concatenate(all_products)


def make_impressions(
    purchases: Purchases,
    households: Ints,
    catalog: Ints,
    weeks: tuple[int, int],
    limit: int,
    negatives: int,
    rng: np.random.Generator,
) -> Impressions:
    """Constructs the impressions of a split, see `complete_journey`."""
    inside = (purchases.week >= weeks[0]) & (purchases.week <= weeks[1])
    in_window = purchases.where(inside)
    listed = np.isin(in_window.product, catalog)
    sold = in_window.where(listed)
    chosen = np.isin(in_window.household, households)
    window = in_window.where(chosen)
    positives, available = choose_positives(
        in_window.where(chosen & listed), limit, rng
    )
    row, product = sample_negatives(positives, window, sold, negatives, rng)
    drawn = np.bincount(row, minlength=len(positives))
    usable = np.flatnonzero(drawn)
    # Shuffles each set of a positive and its negatives by a random key.
    rows = np.concatenate([usable, row])
    products = np.concatenate([positives.product[usable], product])
    click = np.repeat(np.array([1, 0], np.int8), [len(usable), len(row)])
    place = np.empty(len(households), np.int64)
    place[rng.permutation(len(households))] = np.arange(len(households))
    household = positives.household[rows]
    order = np.lexsort(
        (
            rng.random(len(rows)),
            rows,
            place[np.searchsorted(households, household)],
        )
    )
    counts = {
        "purchases_in_window": int(len(window)),
        "purchases_of_unlisted_products": int((chosen & ~listed).sum()),
        "positives_available": int(available),
        "positives_over_limit": int(available - len(positives)),
        "positives_without_negative": int((drawn == 0).sum()),
        "positives": int(len(usable)),
        "positives_with_fewer_negatives": int(
            ((drawn > 0) & (drawn < negatives)).sum()
        ),
        "negatives": int(len(row)),
        "impressions": int(len(rows)),
        "users": int(len(np.unique(household))),
    }
    return Impressions(household[order], products[order], click[order], counts)


def make_histories(
    purchases: Purchases, households: Ints, before_week: int, max_history: int
) -> tuple[Ints, Ints]:
    """Returns products bought before a week, and offsets of each history."""
    past = purchases.where(purchases.week < before_week)
    start = np.searchsorted(past.household, households, side="left")
    stop = np.searchsorted(past.household, households, side="right")
    start = np.maximum(start, stop - max_history)
    lengths = stop - start
    offsets = np.r_[0, np.cumsum(lengths)]
    return past.product[ranges(start, lengths)], offsets
