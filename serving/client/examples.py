"""Requests as `tf.train.Example`s, for the signature `serving_default`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from serving.client.batches import CLICK, PROBABILITY, named_output
from serving.client.calls import Plan, Predict, Target
from serving.client.declaration import Declaration
from serving.client.declared_inputs import SignatureInputs
from serving.client.errors import RequestError, ResponseError
from serving.client.feature_values import Values
from serving.client.types import RankRequest, RankResult, TensorSpec
from serving.wire import messages

if TYPE_CHECKING:
    from schemas.columns import Feature, Features
    from schemas.ranking_schema import RankingSchema

_TYPES = {"int64": "int64", "float32": "float"}


def make_example(
    request: RankRequest,
    item_features: Mapping[str, Values] | None = None,
    schema: RankingSchema | str | os.PathLike[str] | None = None,
) -> bytes:
    """Serializes a request as a request-grouped Example.

    Unlike `rank`, `serving_default` takes all features from the Example, as
    training does, including those of the candidate items.

    Args:
        request: the request.
        item_features: features of the candidate items by declared name, with
            one value for each candidate.
        schema: the declaration of the data, its file, or the name of a preset.
            With it, the Example has every declared feature, missing ones too,
            and texts are hashed as declared. Without it, give every feature
            that the model declares, with lists of their full width.

    Returns:
        A serialized `tf.train.Example` with the features `user_id`,
        `user_<f>`, `behavior_item_ids`, `behavior_<f>`, `candidate_item_ids`,
        `candidate_<f>`, and `context_<f>`, which is repeated for each
        candidate.

    Raises:
        RequestError: a feature is not as declared.
    """
    request = dataclasses.replace(
        request, candidates={**request.candidates, **(item_features or {})}
    )
    declaration = Declaration(schema)
    specs = {}
    if declaration.schema is not None:
        specs = _specs(declaration.schema.features)
    declared = SignatureInputs(specs, declaration)
    items, candidates = (
        declared.ids("item_id", field, getattr(request, field))
        for field in ("behavior_item_ids", "candidate_item_ids")
    )
    context = declared.features("context", [request])
    lists = {
        "user_id": declared.user_ids([request]),
        "behavior_item_ids": items,
        "candidate_item_ids": candidates,
        **declared.features("user", [request]),
        **declared.features("behaviors", [request], len(items)),
        **declared.features("candidates", [request], len(candidates)),
        **{
            name: np.repeat(values, len(candidates), axis=0)
            for name, values in context.items()
        },
    }
    example = messages.Example()
    for name, array in lists.items():
        feature = example.features.feature[name]
        is_float = array.dtype.kind == "f"
        values = feature.float_list if is_float else feature.int64_list
        values.SetInParent()
        values.value.extend(array.ravel().tolist())
    return example.SerializeToString()


def _specs(features: Features) -> dict[str, TensorSpec]:
    """Returns the features of the declaration's Examples as inputs."""
    groups: list[tuple[str, int, Mapping[str, Feature]]] = [
        ("user", 1, features.user),
        ("context", 1, features.context),
        ("candidate", 2, {**features.item, **features.candidate}),
        (
            "behavior",
            2,
            {name: features.of_behavior(name) for name in features.behavior},
        ),
    ]
    return {
        f"{group}_{name}": TensorSpec(
            _TYPES[one.dtype],
            (-1,) * rank + (one.raw_width,) * bool(one.many or one.dim),
        )
        for group, rank, some in groups
        for name, one in some.items()
    }


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
    ids = named_output(outputs, "candidate_item_ids")
    scores = {
        name.removesuffix(PROBABILITY): values
        for name, values in sorted(outputs.items())
        if name.endswith(PROBABILITY)
    }
    scores[CLICK] = named_output(outputs, CLICK + PROBABILITY)
    for values in scores.values():
        if ids.shape != values.shape or len(ids) != len(examples):
            raise ResponseError(
                f"scores {values.shape} and candidates {ids.shape} do not fit "
                f"{len(examples)} examples"
            )
    results = []
    for row, given in enumerate(ids != 0):
        found = {name: values[row][given] for name, values in scores.items()}
        clicks = found[CLICK]
        results.append(RankResult(ids[row][given], clicks, probabilities=found))
    return results
