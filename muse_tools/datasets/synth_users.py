"""Users of the synthetic data: interests, timelines and clicks.

No formula of a ranking model occurs here: no retrieval, no similarity tiers.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import numpy.typing as npt

from muse_tools.datasets import raw_tables
from muse_tools.datasets.arrow_lists import Ints, Mask, ranges
from muse_tools.datasets.synth_items import (
    STYLES_PER_CATEGORY,
    Catalog,
    mix,
    public_ids,
)

PHASES = 8
"""Temporary interests per user; the last begins after the train history."""

PROFILE_SIZES = (8, 3, 50, 30, 6)
"""Distinct values of the five profile fields."""

_Floats = npt.NDArray[np.float64]

_DIM = raw_tables.EMBEDDING_DIM
_PROFILE_MISSING = 0.05
_INTERESTS = 4
_LONG_SHARE = 0.5
_PHASE_SHARE = 0.35
_REPEAT_SHARE = 0.3
_CANDIDATES_LIKED = 0.35
_CANDIDATES_SAME_CATEGORY = 0.3

_SHARPNESS = 4.0
_FAR_WEIGHT = 9.0
_RECENT_WEIGHT = 1.2
_CATEGORY_WEIGHT = 1.0
_POPULARITY_WEIGHT = 0.05
_USER_DEVIATION = 0.6
_NOISE_DEVIATION = 0.2


@dataclasses.dataclass(frozen=True)
class Users:
    """Tastes of a chunk of users: each array has a row per user."""

    interests: Ints  # Permanent styles.
    weights: _Floats  # Weights of the interests; rows add up to 1.
    phases: Ints  # Temporary styles, in order.
    bias: _Floats
    profiles: Ints


def make_users(size: int, catalog: Catalog, rng: np.random.Generator) -> Users:
    """Draws the tastes of `size` users."""
    usable = catalog.usable
    interests = rng.choice(usable, (size, _INTERESTS))
    weights = rng.dirichlet(np.full(_INTERESTS, 1.5), size)
    # Half of the temporary interests are near a permanent one.
    anchor = np.take_along_axis(
        interests, rng.integers(0, _INTERESTS, (size, PHASES)), axis=1
    )
    near = (
        anchor
        - anchor % STYLES_PER_CATEGORY
        + rng.integers(0, STYLES_PER_CATEGORY, (size, PHASES))
    )
    empty = ~np.isin(near, usable)
    far = rng.choice(usable, (size, PHASES))
    phases = np.where((rng.random((size, PHASES)) < 0.5) & ~empty, near, far)
    stays = rng.random(size) < 0.5
    phases[stays, -1] = phases[stays, -2]
    values = [rng.integers(0, n, size) for n in PROFILE_SIZES]
    bias = 0.4 * (values[0] % 2 - 0.5) + rng.normal(0, _USER_DEVIATION, size)
    profiles = np.stack(
        [public_ids(v, 10 + i, catalog.seed) for i, v in enumerate(values)],
        axis=1,
    )
    profiles[rng.random(profiles.shape) < _PROFILE_MISSING] = 0
    return Users(interests, weights, phases, bias, profiles)


def make_timelines(
    users: Users,
    lengths: Ints,
    extra: Ints,
    catalog: Catalog,
    rng: np.random.Generator,
) -> Ints:
    """Returns the item indices of all timelines, concatenated by user."""
    total = lengths + extra
    user = np.repeat(np.arange(len(total)), total)
    step = ranges(np.zeros(len(total), np.int64), total)
    # All phases but the last divide the train history evenly.
    phase = step * (PHASES - 1) // np.maximum(lengths, 1)[user]
    phase = np.minimum(phase, PHASES - 1)
    source = rng.random(len(user))
    pick = rng.random(len(user))
    cumulative = np.cumsum(users.weights, axis=1)
    interest = (pick[:, None] > cumulative[user]).sum(1)
    interest = np.minimum(interest, _INTERESTS - 1)
    style = np.where(
        source < _LONG_SHARE,
        users.interests[user, interest],
        np.where(
            source < _LONG_SHARE + _PHASE_SHARE,
            users.phases[user, phase],
            -1,
        ),
    )
    item = catalog.draw(style, rng.random(len(user)), new=False)
    # Users look at the same item several times in a row.
    fresh = (step == 0) | (rng.random(len(user)) >= _REPEAT_SHARE)
    origin = np.maximum.accumulate(np.where(fresh, np.arange(len(user)), 0))
    return item[origin]


def click_logits(
    users: Users,
    has_past: Mask,
    candidates: Ints,
    phase: int,
    user_index: Ints,
    catalog: Catalog,
    rng: np.random.Generator,
) -> _Floats:
    """Returns logits (U, C) without the common bias.

    Each interest behind the user's past adds to the logit in proportion to its
    share of the past and, exponentially, to the similarity of the candidate's
    latent. The current phase and the category are added once more.
    """
    size, width = candidates.shape
    latents = catalog.latents(candidates.reshape(-1))
    latents = latents.reshape(size, width, _DIM)
    styles = np.concatenate([users.interests, users.phases[:, :phase]], axis=1)
    weights = np.concatenate(
        [
            _LONG_SHARE * users.weights,
            np.full((size, phase), _PHASE_SHARE / phase),
        ],
        axis=1,
    )
    closeness = np.einsum(
        "ucd,usd->ucs", latents, catalog.style_vectors[styles]
    )
    pull = np.exp(_SHARPNESS * (closeness.astype(np.float64) - 1.0))
    far = np.einsum("ucs,us->uc", pull, weights)
    recent = pull[:, :, -1]
    category = catalog.category_of_style[catalog.style[candidates]]
    same = category[:, :, None] == catalog.category_of_style[styles][:, None]
    share = np.einsum("ucs,us->uc", same, weights)
    affinity = mix(
        (user_index[:, None] * 8191 + category).astype(np.uint64)
        + np.uint64(catalog.salt)
    )
    taste = affinity.astype(np.float64) / 2.0**64 - 0.5
    past = has_past[:, None].astype(np.float64)
    return (
        past * (_FAR_WEIGHT * far + _RECENT_WEIGHT * recent)
        + _CATEGORY_WEIGHT * (past * share + taste)
        + _POPULARITY_WEIGHT * np.log(catalog.rank_share[candidates])
        + users.bias[:, None]
        + rng.normal(0, _NOISE_DEVIATION, candidates.shape)
    )


def make_candidates(
    users: Users,
    width: int,
    phase: int,
    new: bool,
    catalog: Catalog,
    rng: np.random.Generator,
) -> Ints:
    """Returns items shown (U, width): of liked or near styles, or popular."""
    size = len(users.bias)
    styles = np.concatenate([users.interests, users.phases[:, :phase]], axis=1)
    liked = np.take_along_axis(
        styles, rng.integers(0, styles.shape[1], (size, width)), axis=1
    )
    sibling = (
        liked
        - liked % STYLES_PER_CATEGORY
        + rng.integers(0, STYLES_PER_CATEGORY, (size, width))
    )
    sibling = np.where(np.isin(sibling, catalog.usable), sibling, liked)
    source = rng.random((size, width))
    style = np.where(
        source < _CANDIDATES_LIKED,
        liked,
        np.where(
            source < _CANDIDATES_LIKED + _CANDIDATES_SAME_CATEGORY,
            sibling,
            -1,
        ),
    )
    drawn = catalog.draw(style.reshape(-1), rng.random(size * width), new=new)
    return drawn.reshape(size, width)


def sigmoid(logits: _Floats) -> _Floats:
    """Returns click probabilities."""
    return 0.5 * (1.0 + np.tanh(0.5 * logits))


def calibrated_bias(logits: _Floats, click_rate: float) -> float:
    """Returns the bias for which the mean probability is the click rate."""
    low, high = -30.0, 30.0
    for _ in range(60):
        middle = (low + high) / 2
        if float(sigmoid(logits + middle).mean()) > click_rate:
            high = middle
        else:
            low = middle
    return (low + high) / 2


def user_gauc(clicked: Mask, scores: _Floats) -> tuple[float, int]:
    """Returns the sum of AUC times impressions, and the impressions."""
    positive = clicked[:, :, None] & ~clicked[:, None, :]
    wins = (scores[:, :, None] > scores[:, None, :]) & positive
    pairs = positive.sum((1, 2))
    usable = pairs > 0
    auc = wins.sum((1, 2))[usable] / pairs[usable]
    width = clicked.shape[1]
    return float(auc.sum() * width), int(usable.sum() * width)
