"""Requests as `tf.train.Example`s, for the signature serving_default."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from serving.client.batches import named_output
from serving.client.calls import Plan, Predict, Target
from serving.client.errors import RequestError, ResponseError
from serving.client.types import (
    IntegerList,
    RankRequest,
    RankResult,
    list_features,
)
from serving.wire import messages


def make_example(
    request: RankRequest,
    candidate_features: Mapping[str, IntegerList] | None = None,
) -> bytes:
    """Serializes a request as a request-grouped Example.

    Unlike the signature rank, serving_default takes all features from the
    Example, as training does, those of the candidates too: give every one
    that the model declares.

    Args:
        request: the request.
        candidate_features: ids by declared name, one per candidate.

    Returns:
        Bytes of a `tf.train.Example` with the features `user_id`,
        `user_<f>`, `behavior_item_ids`, `behavior_<f>`, `candidate_item_ids`
        and `candidate_<f>`.

    Raises:
        RequestError: a feature is not one whole number per candidate.
    """
    length = ("candidate_item_ids", len(request.candidate_item_ids))
    candidates = list_features(
        "candidate_features", candidate_features or {}, length
    )
    lists: dict[str, IntegerList] = {
        "user_id": [request.user_id],
        **{f"user_{name}": [value] for name, value in request.user.items()},
        "behavior_item_ids": request.behavior_item_ids,
        **{f"behavior_{n}": ids for n, ids in request.behaviors.items()},
        "candidate_item_ids": request.candidate_item_ids,
        **{f"candidate_{name}": ids for name, ids in candidates.items()},
    }
    example = messages.Example()
    for name, ids in lists.items():
        values = example.features.feature[name].int64_list
        values.SetInParent()
        values.value.extend(np.asarray(ids).tolist())
    return example.SerializeToString()


def examples_plan(
    target: Target, examples: Sequence[bytes]
) -> Plan[list[RankResult]]:
    """Scores serialized Examples."""
    for index, example in enumerate(examples):
        if not isinstance(example, bytes):
            raise RequestError(f"examples[{index}]", "be bytes", example)
    if not examples:
        return []
    array = np.empty(len(examples), object)
    array[:] = list(examples)

    outputs = yield Predict(target, "serving_default", {"examples": array})
    scores = named_output(outputs, "click_probability")
    ids = named_output(outputs, "candidate_item_ids")
    if ids.shape != scores.shape or len(ids) != len(examples):
        raise ResponseError(
            f"scores {scores.shape} and candidates {ids.shape} do not fit "
            f"{len(examples)} examples"
        )
    return [
        RankResult(row_ids[row_ids != 0], row[row_ids != 0])
        for row_ids, row in zip(ids, scores, strict=True)
    ]
