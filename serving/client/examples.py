"""Requests as `tf.train.Example`s, for the signature serving_default."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from serving.client.errors import RequestError
from serving.client.types import IntegerList, RankRequest, id_array
from serving.wire import messages

__all__ = ["make_example"]


def make_example(
    request: RankRequest,
    candidate_features: Mapping[str, IntegerList] | None = None,
) -> bytes:
    """Serialises a request as a request-grouped Example.

    Unlike the signature rank, serving_default takes the features of the
    candidates from the Example, as training does.

    Args:
        request: the request.
        candidate_features: `candidate_category`, `candidate_city`,
            `candidate_province` to ids, one per candidate.

    Returns:
        Bytes of a `tf.train.Example` with the features `user_id`,
        `user_profile_1` … `_5`, `behavior_item_ids`,
        `behavior_category_ids`, `candidate_item_ids` and those given.

    Raises:
        RequestError: a feature is not one whole number per candidate.
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
        values.value.extend(np.asarray(getattr(request, name)).tolist())
    count = len(request.candidate_item_ids)
    for name, ids in (candidate_features or {}).items():
        array = id_array(name, ids)
        if len(array) != count:
            raise RequestError(
                name,
                f"hold {count} ids, one per candidate",
                f"{len(array)} ids",
            )
        features[name].int64_list.value.extend(array.tolist())
    return example.SerializeToString()
