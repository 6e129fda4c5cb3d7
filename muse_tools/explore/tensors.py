"""Converts a request to the tensors of a signature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

# Axes of an input before those of its values, including the batch.
_AXES = {"user": 1, "context": 1, "behavior": 2, "candidate": 2}


def of_request(
    inputs: Mapping[str, Mapping[str, Any]],
    user: Mapping[str, Any],
    item_ids: Sequence[int],
) -> dict[str, tf.Tensor]:
    """Returns the tensors of one request.

    Features of the request and of candidates, and features that `user` lacks,
    are missing: 0 or NaN.

    Args:
        inputs: ``dtype`` and ``shape`` by name, as in a manifest.
        user: the fields of a `RankRequest` without candidates.
        item_ids: the candidates.
    """
    given = {
        "user_id": user["user_id"],
        **{f"user_{name}": value for name, value in user["user"].items()},
        "behavior_item_ids": user["behavior_item_ids"],
        **{f"behavior_{n}": values for n, values in user["behaviors"].items()},
        "candidate_item_ids": item_ids,
    }
    lengths = {
        "behavior": len(user["behavior_item_ids"]),
        "candidate": len(item_ids),
    }
    tensors = {}
    for name, spec in inputs.items():
        group = name.partition("_")[0]
        shape = [1, lengths[group]] if group in lengths else [1]
        shape += spec["shape"][_AXES[group] :]
        values = _filled(given.get(name), shape, np.dtype(spec["dtype"]))
        tensors[name] = tf.constant(values)
    return tensors


def _filled(
    given: Any, shape: Sequence[int], dtype: np.dtype[Any]
) -> npt.NDArray[Any]:
    """Returns an array that starts with the given values."""
    values = np.full(shape, np.nan if dtype.kind == "f" else 0, dtype)
    if given is None:
        return values
    if values.ndim == 1:
        values[0] = given
    else:
        own = np.asarray(given, dtype)
        values[0, : len(own)] = own
    return values
