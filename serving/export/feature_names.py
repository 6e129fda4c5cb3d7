"""Names of a model's features in Examples and in signatures.

A feature has a declared name `f`. It is `user_<f>` of a user, `behavior_<f>`
of behaviors, `candidate_<f>` of candidates and `item_<f>` of items to store;
`candidate_<f>_matches` counts behaviors that have the candidate's value.
"""

from collections import Counter
from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING

from muse_keras.tensorflow import FeatureNames

if TYPE_CHECKING:  # The key of the retrieval model knows no ranker.
    from muse_keras.models import BaseRanker

# Tensors that are no features.
_TAKEN = (
    "user_id",
    "behavior_item_ids",
    "behavior_rows",
    "candidate_item_ids",
    "candidate_popularity",
    "item_ids",
)


def tensor_names(
    user: Iterable[str] = (),
    item: Iterable[str] = (),
    behavior: Iterable[str] = (),
    matches: Iterable[str] = (),
    context: Iterable[str] = (),
    candidate: Iterable[str] = (),
) -> FeatureNames:
    """Return the names of transformed features, by declared names.

    Those of users and behaviors are also the inputs of signatures.

    Raises:
        ValueError: if two tensors would have the same name.
    """
    items = tuple(item)
    names = FeatureNames(
        user={f"user_{name}": 1 for name in user},
        item={f"candidate_{name}": 1 for name in items},
        context={
            **{f"context_{name}": 1 for name in context},
            **{f"candidate_{name}": 1 for name in candidate},
        },
        behavior={f"behavior_{name}": 1 for name in behavior},
        matches={f"candidate_{name}_matches": 1 for name in matches},
    )
    stored = [f"item_{name}" for name in items]
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


def declared_names(model: "BaseRanker") -> dict[str, list[str]]:
    """Return the declared names of a model's features, by group."""
    return {
        "user": list(model.user_sizes),
        "item": list(model.item_sizes),
        "behavior": list(model.behavior_features),
        "matches": list(model.matches),
    }


def names_of(
    model: "BaseRanker", of_items: Collection[str] = ()
) -> FeatureNames:
    """Return `tensor_names` of a model's features.

    Without the features of behaviors in `of_items`, which the item table has.
    """
    names = declared_names(model)
    carried = [name for name in names["behavior"] if name not in of_items]
    return tensor_names(**{**names, "behavior": carried})


def vocabulary_sizes(model: "BaseRanker") -> dict[str, int]:
    """Return the number of indices of each vocabulary.

    Vocabularies are named `user_<f>` and `item_<f>`; candidates and behaviors
    share the latter.
    """
    return {
        f"{group}_{name}": size
        for group, sizes in (
            ("user", model.user_sizes),
            ("item", model.item_sizes),
        )
        for name, size in sizes.items()
    }
