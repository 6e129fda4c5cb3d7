"""Parts of an answer, checked against what was asked."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from serving.client.errors import ResponseError

__all__ = ["candidate_part", "column", "named_output"]


def named_output(outputs: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    """An output.

    Args:
        outputs: name to array.
        name: which one.

    Raises:
        ResponseError: the answer does not hold it.
    """
    if name not in outputs:
        raise ResponseError(
            f"the answer has no output {name!r}, only {sorted(outputs)}"
        )
    return outputs[name]


def column(
    outputs: Mapping[str, np.ndarray], name: str, rows: int
) -> np.ndarray:
    """The first values of an output with one value per row.

    Args:
        outputs: name to array.
        name: which one.
        rows: how many values.

    Returns:
        Shape (rows,).

    Raises:
        ResponseError: it is missing, too small or of another rank.
    """
    values = named_output(outputs, name)
    if values.ndim != 1 or len(values) < rows:
        raise ResponseError(
            f"output {name!r} has shape {values.shape}, too small for "
            f"{rows} rows"
        )
    return values[:rows]


def candidate_part(
    outputs: Mapping[str, np.ndarray],
    name: str,
    row: int,
    count: int,
    rank: int = 2,
) -> np.ndarray:
    """One request's part of an output with a value per candidate.

    Args:
        outputs: name to array.
        name: which one.
        row: row of the request.
        count: its candidates; what follows them is padding.
        rank: dimensions of the output; rows and candidates come first.

    Returns:
        Shape (count, …).

    Raises:
        ResponseError: it is missing, too small or of another rank.
    """
    array = named_output(outputs, name)
    if array.ndim != rank or row >= len(array) or count > array.shape[1]:
        raise ResponseError(
            f"output {name!r} has shape {array.shape}, too small for "
            f"row {row} and {count} candidates"
        )
    return array[row, :count]
