"""Names of a model's features in Examples and in signatures.

A feature with the declared name `f` is called `user_<f>` for a user,
`context_<f>` for a request, `behavior_<f>` for behaviors, `candidate_<f>` for
candidates and `item_<f>` for items to store. `candidate_<f>_matches` counts
the behaviors that have the candidate's value.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from muse_keras.tensorflow import FeatureNames
from schemas.columns import Feature, Features

if TYPE_CHECKING:  # The retrieval model's export must not import the rankers.
    from muse_keras.models import BaseRanker

# Tensors that are not features.
_TAKEN = (
    "user_id",
    "behavior_item_ids",
    "behavior_rows",
    "candidate_item_ids",
    "candidate_popularity",
    "item_ids",
)


def tensor_names(features: Features) -> FeatureNames:
    """Return the names of transformed features, and their widths.

    Raises:
        ValueError: if two tensors would have the same name.
    """
    user = prefixed("user", features.user)
    item = prefixed("candidate", features.item)
    context = {
        **prefixed("context", features.context),
        **prefixed("candidate", features.candidate),
    }
    of_items = [name for name in features.behavior if name in features.item]
    behavior = {
        f"behavior_{name}": features.of_behavior(name)
        for name in (*of_items, *features.of_events)
    }
    names = FeatureNames(
        user=_widths(user, True),
        item=_widths(item, True),
        context=_widths(context, True),
        behavior=_widths(behavior, True),
        matches={f"candidate_{name}_matches": 1 for name in features.matches},
        user_numbers=_widths(user, False),
        item_numbers=_widths(item, False),
        context_numbers=_widths(context, False),
    )
    stored = prefixed("item", features.item)
    counts = Counter(
        name for group in (_TAKEN, stored, *names) for name in group
    )
    name, count = counts.most_common(1)[0]
    if count > 1:
        raise ValueError(
            f"Two tensors would be named {name!r}. Declare the feature that "
            "becomes it under another name."
        )
    return names


def prefixed(group: str, features: Mapping[str, Feature]) -> dict[str, Feature]:
    """Return features by the names of their tensors."""
    return {f"{group}_{name}": one for name, one in features.items()}


def single_categories(
    user: Iterable[str] = (),
    item: Iterable[str] = (),
    behavior: Iterable[str] = (),
    matches: Iterable[str] = (),
) -> Features:
    """Return features that are declared by name only.

    Each is a single category, and requests carry those of behaviors.
    """
    return Features(
        user={name: Feature() for name in user},
        item={name: Feature() for name in item},
        behavior={name: Feature(column=name) for name in behavior},
        matches=tuple(matches),
    )


def features_of(model: "BaseRanker") -> Features:
    """Return `single_categories` with the names that a model has.

    Raises:
        ValueError: if the model has other features than these.
    """
    sizes = [*model.user_sizes.values(), *model.item_sizes.values()]
    others = (
        *(size for size in sizes if not isinstance(size, int)),
        *model.context_sizes,
        *model.behavior_sizes,
    )
    numbers = model.user_numbers + model.item_numbers + model.context_numbers
    if others or numbers:
        raise ValueError(
            "`features` must be given, as the model has features other than "
            "single categories of users and items. Received: None"
        )
    return single_categories(
        model.user_sizes,
        model.item_sizes,
        model.behavior_features,
        model.matches,
    )


def _widths(features: Mapping[str, Feature], is_index: bool) -> dict[str, int]:
    return {
        name: one.width
        for name, one in features.items()
        if one.is_index == is_index
    }
