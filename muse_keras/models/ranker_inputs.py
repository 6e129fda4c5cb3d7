"""Inputs of a ranker: their names, and checks that name what is wrong."""

from collections.abc import Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from muse_keras._ops.checks import (
    check_indices,
    check_inputs,
    check_names,
    on_host,
)
from muse_keras._ops.feature_columns import Size, columns_of

# The groups of features, and their axes as of `check_inputs`.
_GROUPS = {
    "user_features": "BU",
    "user_numbers": "BV",
    "behavior_features": "BbF",
    "candidate_features": "BcI",
    "candidate_numbers": "BcJ",
    "candidate_matches": "BcM",
    "context_features": "BcX",
    "context_numbers": "BcY",
}
_OTHERS = tuple(
    f"{kind}_{name}"
    for kind in ("behavior", "candidate")
    for name in ("item_ids", "rows", "mask")
)


def sizes_of_behaviors(model: Any) -> dict[str, Size]:
    """Return sizes of item features of behaviors, then of their own ones."""
    shared = {name: model.item_sizes[name] for name in model.behavior_features}
    return shared | model.behavior_sizes


def check_ranker_inputs(inputs: Mapping[str, Any], model: Any) -> None:
    """Raise `ValueError` for inputs that are missing or do not fit.

    `model` has the names of the features and the sizes of their vocabularies.
    """
    groups = {
        "user_features": columns_of(model.user_sizes),
        "behavior_features": columns_of(sizes_of_behaviors(model)),
        "candidate_features": columns_of(model.item_sizes),
        "context_features": columns_of(model.context_sizes),
    }
    numbers = {
        "user_numbers": model.user_numbers,
        "candidate_numbers": model.item_numbers,
        "context_numbers": model.context_numbers,
    }
    # The names of the columns, each as often as it has columns.
    expected = {
        name: [one for one, own in columns.items() for _ in range(own.values)]
        for name, columns in groups.items()
    }
    expected["candidate_matches"] = list(model.matches)
    expected |= {name: [""] * count for name, count in numbers.items()}
    shapes = _shapes(inputs, expected)
    for name, names in expected.items():
        shape = shapes[name][0] if name in shapes else (len(names),)
        if shape[-1] not in (None, len(names)):
            known = [
                f"{one} ({names.count(one)})" if names.count(one) > 1 else one
                for one in dict.fromkeys(names)
                if one
            ]
            raise ValueError(
                f"`{name}` must have {len(names)} columns"
                f"{': ' if known else ''}{', '.join(known)}. "
                f"Received: {name}.shape={shape}"
            )
    rows = model.num_items + 1 + model.spare_rows
    for name in ("behavior_rows", "candidate_rows"):
        what = "the rows of the item table"
        check_indices(name, inputs.get(name), rows, what)
    for name, columns in groups.items():
        indices = inputs.get(name)
        if on_host(indices):
            for feature, own in columns.items():
                what = f"the vocabulary of {feature!r}"
                values = np.asarray(indices)[..., own.place]
                check_indices(name, values, own.size, what)
    for name in numbers:
        _check_numbers(name, inputs.get(name))


def _shapes(inputs: Mapping[str, Any], expected: Mapping[str, Any]) -> Any:
    """Return shapes and axes of inputs that are there and go together."""
    missing = [
        name
        for name, needed in {**expected, "behavior_mask": True}.items()
        if needed and name not in inputs
    ]
    for kind in ("behavior", "candidate"):
        given = {f"{kind}_rows", f"{kind}_item_ids"} & set(inputs)
        if not given:
            missing.append(f"{kind}_item_ids (or {kind}_rows)")
        if len(given) == 2:
            raise ValueError(
                f"`inputs` must have {kind}_item_ids or {kind}_rows, not "
                "both: the model would not look at the ids."
            )
    if missing:
        raise ValueError(
            f"`inputs` must have {', '.join(missing)}. "
            f"Received: {sorted(inputs)}"
        )
    check_names(inputs, (*_GROUPS, *_OTHERS))
    shapes: dict[str, Any] = {}
    for name in ("user_features", *sorted(inputs)):
        if inputs.get(name) is not None:
            axes = _GROUPS.get(name, f"B{name[0]}")
            shapes[name] = (tuple(np.shape(inputs[name])), axes)
    check_inputs(**shapes)
    return shapes


def _check_numbers(name: str, values: Any) -> None:
    """Raise `ValueError` for numbers on the host that are not finite."""
    if not on_host(values):
        return
    wrong = ~np.isfinite(values)
    if wrong.any():
        raise ValueError(
            f"`{name}` must be finite: give 0 for a number that is missing, "
            "and a column that says so. Received: "
            f"{np.asarray(values)[wrong][0]} in column "
            f"{np.argwhere(wrong)[0][-1]}"
        )


def as_tensors(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Return inputs as tensors, all but raw ids, which some would cut."""
    tensors = {
        name: value
        if name.endswith("_item_ids")
        else ops.convert_to_tensor(value)
        for name, value in inputs.items()
    }
    for name in ("behavior_mask", "candidate_mask"):
        if tensors.get(name) is not None:
            tensors[name] = ops.cast(tensors[name], "bool")
    return tensors


def features_of(
    inputs: Mapping[str, Any], group: str, sizes: Mapping[str, Size]
) -> dict[str, Any]:
    """Return the indices of a group's features by name.

    They are without the last axis of the group; those of a feature of many
    values have an axis of these.
    """
    values: Any = inputs.get(group)
    if keras.backend.backend() == "tensorflow" and values is not None:
        # TensorFlow slices int32 on the host.
        values = ops.cast(values, "int64")
    return {
        name: values[..., own.place] for name, own in columns_of(sizes).items()
    }
