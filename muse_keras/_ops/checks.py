"""Checks of arguments and inputs, with errors that name them."""

import math
import numbers
from collections.abc import Iterable
from typing import Any

import keras
import numpy as np

_KINDS = {
    "vectors": "int8 codes or floats",
    "floats": "floats",
    "integers": "integers",
}


def integer(name: str, value: Any, minimum: int = 1) -> int:
    """Return a constructor's integer as an `int`.

    NumPy's integers are accepted, booleans are not.
    """
    is_integer = isinstance(value, numbers.Integral)
    if isinstance(value, bool) or not is_integer or value < minimum:
        wanted = f"an integer of at least {minimum}"
        if minimum == 1:
            wanted = "a positive integer"
        raise ValueError(
            f"`{name}` must be {wanted}. Received: {name}={value!r}"
        )
    return int(value)


def integers(name: str, values: Iterable[Any]) -> tuple[int, ...]:
    """Return a constructor's sequence of positive integers."""
    return tuple(integer(name, value) for value in values)


def names_among(
    name: str, names: Iterable[str], known: Iterable[str]
) -> tuple[str, ...]:
    """Return a constructor's names, different ones of those known."""
    chosen = tuple(names)
    if len(set(chosen)) < len(chosen) or not set(chosen) <= set(known):
        raise ValueError(
            f"`{name}` must be different names among "
            f"{', '.join(known) or 'none'}. Received: {name}={names!r}"
        )
    return chosen


def label_names(labels: Iterable[str]) -> tuple[str, ...]:
    """Return a constructor's names of labels, which become those of outputs."""
    names = tuple(labels)
    if (
        isinstance(labels, str)
        or not names
        or len(set(names)) < len(names)
        or not all(str(name).isidentifier() for name in names)
        or "click" in names[1:]
    ):
        raise ValueError(
            "`labels` must be different names of letters, digits and _, at "
            f'least one, and "click" the first if at all. '
            f"Received: labels={labels!r}"
        )
    return names


def seed_of(value: Any) -> int | None:
    """Return a constructor's `seed`: an integer of at least 0, or None."""
    return None if value is None else integer("seed", value, minimum=0)


def number(name: str, value: Any, interval: str = "(-inf, inf)") -> float:
    """Return a constructor's finite number in an interval as a `float`.

    NumPy's numbers are accepted, booleans and texts are not.
    """
    low, high = map(float, interval[1:-1].split(","))
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if (
        not is_number
        or not math.isfinite(value)
        or not low <= value <= high
        or (value == low and interval[0] == "(")
        or (value == high and interval[-1] == ")")
    ):
        raise ValueError(
            f"`{name}` must be a number in {interval}. "
            f"Received: {name}={value!r}"
        )
    return float(value)


def check_inputs(**inputs: tuple[Any, str] | tuple[Any, str, str]) -> None:
    """Raise `ValueError` for inputs that do not fit together.

    Each input is a tensor (or a shape, or None if it was not given), the
    axes it may have, a letter each, with a space between alternatives, and
    what it must hold if that matters: "vectors", "floats" or "integers". An
    axis has the size that the first input gave it; nothing is broadcast.
    Sizes that are not known yet are not compared: a program that runs has
    no check in it.

    Example:
    >>> import numpy as np
    >>> rows = np.zeros((2, 5)), "BL"
    >>> check_inputs(rows=rows, mask=(np.zeros((2, 4)), "BL"))
    Traceback (most recent call last):
        ...
    ValueError: `mask` must have shape (2, 5), to go with `rows`. Received: \
mask.shape=(2, 4)
    """
    sizes: dict[str, int] = {}
    givers: dict[str, str] = {}
    for name, (tensor, axes, *kind) in inputs.items():
        if tensor is None:
            continue
        shape = shape_of(tensor)
        choices = {len(choice): choice for choice in axes.split()}
        letters = choices.get(len(shape))
        if letters is None:
            ranks = " or ".join(str(rank) for rank in sorted(choices))
            raise ValueError(
                f"`{name}` must have rank {ranks}. "
                f"Received: {name}.shape={shape}"
            )
        if kind and hasattr(tensor, "dtype"):
            _check_kind(name, tensor, kind[0])
        known = [sizes.get(letter) for letter in letters]
        wrong = [
            letter
            for letter, size, own in zip(letters, known, shape, strict=True)
            if None not in (size, own) and size != own
        ]
        if wrong:
            wanted = ", ".join("any" if n is None else str(n) for n in known)
            others = dict.fromkeys(f"`{givers[letter]}`" for letter in wrong)
            raise ValueError(
                f"`{name}` must have shape ({wanted}), to go with "
                f"{' and '.join(others)}. Received: {name}.shape={shape}"
            )
        for letter, size in zip(letters, shape, strict=True):
            if size is not None and letter not in sizes:
                sizes[letter], givers[letter] = size, name


def shape_of(tensor: Any) -> tuple[Any, ...]:
    """Return the shape of a tensor, or a shape that stands for one.

    None is a size that is not known yet.
    """
    return tuple(tensor if isinstance(tensor, tuple | list) else tensor.shape)


def same_axes(tensor: Any) -> str:
    """Return axes for `check_inputs`, as many as the tensor has."""
    return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[: len(shape_of(tensor))]


def check_names(inputs: Iterable[str], known: Iterable[str]) -> None:
    """Raise `ValueError` for names of inputs that a model does not read."""
    unknown = sorted(set(inputs) - set(known))
    if unknown:
        raise ValueError(
            f"`inputs` may have {', '.join(known)} alone: the model would "
            f"not look at others. Received also: {', '.join(unknown)}"
        )


def on_host(values: Any) -> bool:
    """Tell whether values can be looked into: NumPy arrays and lists.

    Looking into a tensor would hold up the device, and in a compiled program
    needs ops without GPU kernels.
    """
    return isinstance(values, np.ndarray | np.generic | list | tuple | int)


def check_indices(name: str, indices: Any, size: int, what: str) -> None:
    """Raise `ValueError` for indices on the host that name no row.

    In a tensor, which is not looked into, such an index reads row 0. `size` is
    the number of rows; `what` says for the message what the indices are of.
    """
    if not on_host(indices):
        return
    indices = np.asarray(indices)
    _check_kind(name, indices, "integers")
    wrong = (indices < 0) | (indices >= size)
    if wrong.any():
        raise ValueError(
            f"`{name}` must be in [0, {size}), {what}; 0 is for what is "
            f"missing or unknown. Received: {indices[wrong][0]}"
        )


def _check_kind(name: str, tensor: Any, kind: str) -> None:
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    is_right = {
        "vectors": dtype == "int8" or keras.backend.is_float_dtype(dtype),
        "floats": keras.backend.is_float_dtype(dtype),
        "integers": keras.backend.is_int_dtype(dtype),
    }[kind]
    if not is_right:
        raise ValueError(
            f"`{name}` must be {_KINDS[kind]}. Received: {name}.dtype={dtype}"
        )
