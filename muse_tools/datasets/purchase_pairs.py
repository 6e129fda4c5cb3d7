"""Constructs stand-ins for searches from purchases.

The data hold no searches. A product that a household bought earlier is the
query; another product of the same type in a later basket is the purchase;
products of the same category that were on offer and that the household never
bought are the clicks without a purchase. These are pure functions of arrays;
random choices come from a generator that the caller passes in.
"""

from __future__ import annotations

import dataclasses

import numpy as np

from muse_tools.datasets.arrow_lists import Ints, find_sorted
from muse_tools.datasets.impressions import Purchases, sample_negatives


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Pairs of products in order of time: columns int64 (E,)."""

    seconds: Ints
    query: Ints
    purchased: Ints
    # Products not bought, of all pairs; `offsets` (E + 1,) delimit pairs.
    clicked: Ints
    offsets: Ints
    counts: dict[str, int]


def make_pairs(
    purchases: Purchases,
    households: Ints,
    products: Ints,
    types: Ints,
    categories: Ints,
    before_week: int,
    limit: int,
    clicks: int,
    rng: np.random.Generator,
) -> Pairs:
    """Constructs pairs from the purchases before a week.

    Only `products`, which are sorted, are used; `types` (0 if unknown) and
    `categories` describe them. At most `limit` pairs are chosen at random, each
    with at most `clicks` products that were clicked but not bought.
    """
    past = purchases.where(purchases.week < before_week)
    place, known = find_sorted(products, past.product)
    known &= types[place] != 0
    past, place = past.where(known), place[known]
    mine = np.isin(past.household, households)
    own, kind = past.where(mine), types[place[mine]]

    order = np.lexsort((own.seconds, kind, own.household))
    own, kind = own.where(order), kind[order]
    group = np.ones(len(own), bool)
    group[1:] = (own.household[1:] != own.household[:-1]) | (
        kind[1:] != kind[:-1]
    )
    basket = group.copy()
    basket[1:] |= own.seconds[1:] != own.seconds[:-1]
    # The last purchase of the previous basket, if it is in the same group.
    row = np.arange(len(own))
    before = np.maximum.accumulate(np.where(basket, row, 0)) - 1
    first_of_group = np.maximum.accumulate(np.where(group, row, 0))
    usable = before >= first_of_group
    usable[usable] = own.product[before[usable]] != own.product[usable]
    found = np.flatnonzero(usable)
    chosen = found
    if len(found) > limit:
        chosen = np.sort(rng.permutation(found)[:limit])
    chosen = chosen[np.argsort(own.seconds[chosen], kind="stable")]

    positives = own.where(chosen)
    # One "store" per store and category, so that its products are alike.
    row, clicked = sample_negatives(
        _by_category(positives, products, categories),
        own,
        _by_category(past, products, categories),
        clicks,
        rng,
    )
    drawn = np.bincount(row, minlength=len(chosen))
    return Pairs(
        positives.seconds,
        own.product[before[chosen]],
        positives.product,
        clicked,
        np.r_[0, np.cumsum(drawn)],
        {
            "pairs_available": len(found),
            "pairs_over_limit": len(found) - len(chosen),
            "pairs": len(chosen),
            "pairs_without_clicks": int((drawn == 0).sum()),
            "clicks_without_purchase": len(clicked),
            "households": len(np.unique(positives.household)),
        },
    )


def _by_category(
    purchases: Purchases, products: Ints, categories: Ints
) -> Purchases:
    _, code = np.unique(categories, return_inverse=True)
    at = np.searchsorted(products, purchases.product)
    return dataclasses.replace(
        purchases,
        store=purchases.store * (int(code.max()) + 1) + code[at],
    )
