"""Inputs of a ranker: their names, and checks that name what is wrong."""

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from muse_keras._ops.checks import check_indices, check_inputs, check_names

# The groups of features, and their axes as of `check_inputs`.
_GROUPS = {
    "user_features": "BU",
    "behavior_features": "BbF",
    "candidate_features": "BcI",
    "candidate_matches": "BcM",
}
_OTHERS = tuple(
    f"{kind}_{name}"
    for kind in ("behavior", "candidate")
    for name in ("item_ids", "rows", "mask")
)


def check_ranker_inputs(inputs: Mapping[str, Any], model: Any) -> None:
    """Raise `ValueError` for inputs that are missing or do not fit.

    `model` has the names of the features and the sizes of their vocabularies.
    """
    sizes: dict[str, Mapping[str, int]] = {
        "user_features": model.user_sizes,
        "behavior_features": {
            name: model.item_sizes[name] for name in model.behavior_features
        },
        "candidate_features": model.item_sizes,
    }
    features = {**sizes, "candidate_matches": model.matches}
    missing = [
        name
        for name, needed in {**features, "behavior_mask": True}.items()
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
    for name, known in features.items():
        shape = shapes[name][0] if name in shapes else (len(known),)
        if shape[-1] not in (None, len(known)):
            raise ValueError(
                f"`{name}` must have {len(known)} features, "
                f"{', '.join(known) or 'none'}. Received: {name}.shape={shape}"
            )
    rows = model.num_items + 1 + model.spare_rows
    for name in ("behavior_rows", "candidate_rows"):
        what = "the rows of the item table"
        check_indices(name, inputs.get(name), rows, what)
    for name, own in sizes.items():
        check_indices(name, inputs.get(name), own, "the vocabulary")


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
    inputs: Mapping[str, Any], group: str, names: Iterable[str]
) -> dict[str, Any]:
    """Return the indices of a group's features by name, without last axis."""
    values: Any = inputs.get(group)
    if keras.backend.backend() == "tensorflow" and values is not None:
        # TensorFlow slices int32 on the host.
        values = ops.cast(values, "int64")
    return {name: values[..., place] for place, name in enumerate(names)}
