"""Requests as `tf.train.Example`s, for the signature serving_default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from serving.client.batches import Outputs, named_output
from serving.client.calls import Plan, Predict, Target
from serving.client.errors import RequestError, ResponseError
from serving.client.types import (
    IntegerList,
    RankRequest,
    RankResult,
    id_array,
)
from serving.wire import messages


def make_example(
    request: RankRequest,
    candidate_features: Mapping[str, IntegerList] | None = None,
) -> bytes:
    """Serializes a request as a request-grouped Example.

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
    length = ("candidate_item_ids", len(request.candidate_item_ids))
    for name, ids in (candidate_features or {}).items():
        array = id_array(name, ids, length)
        features[name].int64_list.value.extend(array.tolist())
    return example.SerializeToString()


def examples_plan(
    target: Target, examples: Sequence[bytes]
) -> Plan[list[RankResult]]:
    """Scores serialized Examples."""
    for index, example in enumerate(examples):
        if not isinstance(example, bytes):
            raise RequestError(f"examples[{index}]", "be bytes", example)
    if not examples:
        return Plan([], lambda _: [])
    array = np.empty(len(examples), object)
    array[:] = list(examples)

    def read(answers: list[Outputs]) -> list[RankResult]:
        scores = named_output(answers[0], "click_probability")
        ids = named_output(answers[0], "candidate_item_ids")
        if ids.shape != scores.shape or len(ids) != len(examples):
            raise ResponseError(
                f"scores {scores.shape} and candidates {ids.shape} do not "
                f"fit {len(examples)} examples"
            )
        return [
            RankResult(row_ids[row_ids != 0], row[row_ids != 0])
            for row_ids, row in zip(ids, scores, strict=True)
        ]

    return Plan([Predict(target, "serving_default", {"examples": array})], read)
