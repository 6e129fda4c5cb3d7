"""Inputs of a ranker: their names, and checks that name what is wrong."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from keras import ops

from muse_keras._ops.checks import check_indices, check_inputs, check_names

_REQUIRED = (
    "user_profile",
    "behavior_categories",
    "behavior_mask",
    "candidate_categories",
    "candidate_cities",
    "candidate_provinces",
    "candidate_category_matches",
)
_OTHERS = (
    "behavior_item_ids",
    "behavior_rows",
    "candidate_item_ids",
    "candidate_rows",
    "candidate_mask",
)


def check_ranker_inputs(inputs: Mapping[str, Any], sizes: Any) -> None:
    """Raise `ValueError` for inputs that are missing or do not fit.

    `sizes` is a model with the sizes of vocabularies and tables.
    """
    missing = [name for name in _REQUIRED if name not in inputs]
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
    check_names(inputs, (*_REQUIRED, *_OTHERS))
    shapes: dict[str, Any] = {}
    for name in ("user_profile", *sorted(inputs)):
        if inputs[name] is not None:
            axes = "BF" if name == "user_profile" else f"B{name[0]}"
            shapes[name] = (tuple(np.shape(inputs[name])), axes)
    check_inputs(**shapes)
    fields, shape = len(sizes.profile_sizes), shapes["user_profile"][0]
    if shape[-1] != fields:
        raise ValueError(
            f"`user_profile` must have {fields} fields. Received: "
            f"user_profile.shape={shape}"
        )
    rows = sizes.num_items + 1 + sizes.spare_rows
    table = "the rows of the item table"
    for name, size, what in (
        ("user_profile", sizes.profile_sizes, "the sizes of its fields"),
        ("behavior_rows", rows, table),
        ("candidate_rows", rows, table),
        ("behavior_categories", sizes.category_size, "the vocabulary"),
        ("candidate_categories", sizes.category_size, "the vocabulary"),
        ("candidate_cities", sizes.city_size, "the vocabulary"),
        ("candidate_provinces", sizes.province_size, "the vocabulary"),
    ):
        check_indices(name, inputs.get(name), size, what)


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
