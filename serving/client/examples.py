"""Requests as `tf.train.Example`s, for the signature serving_default."""

from __future__ import annotations

from serving.client import messages
from serving.client.types import RankRequest

__all__ = ["make_example"]


def make_example(request: RankRequest) -> bytes:
    """Serialises a request as a request-grouped Example.

    Args:
        request: the request.

    Returns:
        Bytes of a `tf.train.Example` with the features `user_id`,
        `user_profile_1` … `_5`, `behavior_item_ids`,
        `behavior_category_ids` and `candidate_item_ids`.
    """
    example = messages.Example()
    features = example.features.feature
    features["user_id"].int64_list.value.append(request.user_id)
    for number, value in enumerate(request.user_profile, 1):
        name = f"user_profile_{number}"
        features[name].int64_list.value.append(int(value))
    for name in (
        "behavior_item_ids",
        "behavior_category_ids",
        "candidate_item_ids",
    ):
        values = features[name].int64_list
        values.SetInParent()
        values.value.extend(getattr(request, name).tolist())
    return example.SerializeToString()
