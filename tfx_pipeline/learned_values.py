"""Reads the values that Transform has learned for features."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow_transform as tft

from schemas.columns import Features

NUMBERS = "numbers"
"""Vocabulary that holds all learned numbers as lines "name place number"."""
OF_NUMBERS = ("buckets", "number")
"""Kinds of features for which numbers are learned."""


def read_learned(
    transform_output: tft.TFTransformOutput, declared: Features
) -> dict[str, npt.NDArray[Any]]:
    """Returns the learned values by the names of `Features.learned`.

    Returns:
        For vocabularies, ids int64 (V,) in the order of their indices; for
        buckets, ascending boundaries float32 (n,); for numbers, mean and scale
        float32 (2,). Hashed features and vectors are left out.
    """
    kinds = {name: one.kind for name, one in declared.learned().items()}
    numbers: dict[str, dict[int, float]] = {
        name: {} for name, kind in kinds.items() if kind in OF_NUMBERS
    }
    for line in transform_output.vocabulary_by_name(NUMBERS) if numbers else ():
        parts = line.decode().split()
        if len(parts) == 3:  # TFT writes a dummy line if there are none.
            numbers[parts[0]][int(parts[1])] = float(parts[2])
    found: dict[str, npt.NDArray[Any]] = {}
    for name, kind in kinds.items():
        if kind == "vocabulary":
            lines = transform_output.vocabulary_by_name(name)
            found[name] = np.array([int(line) for line in lines], np.int64)
        elif kind in OF_NUMBERS:
            in_order = [value for _, value in sorted(numbers[name].items())]
            found[name] = np.array(in_order, np.float32)
    return found
