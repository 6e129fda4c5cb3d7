"""Item ids as tensors; an id that would be cut raises an error."""

from typing import Any

import keras
import numpy as np
from keras import ops

from muse_keras._ops.checks import check_inputs, same_axes


def backend_holds_int64() -> bool:
    """Tell whether tensors of the backend keep 64-bit integers."""
    probe = ops.convert_to_tensor(np.array([1 << 40], np.int64))
    return keras.backend.standardize_dtype(probe.dtype) == "int64"


def id_dtype() -> str:
    """Return "int64", or "int32" where the backend holds nothing wider."""
    return "int64" if backend_holds_int64() else "int32"


def id_tensor(ids: Any, name: str = "item_ids") -> Any:
    """Return ids as a tensor of `id_dtype`.

    Raises `ValueError` for ids in NumPy or a list that the backend would cut.
    """
    is_symbol = isinstance(ids, keras.KerasTensor)
    if not ops.is_tensor(ids) and not is_symbol:
        ids = np.asarray(ids)
    check_inputs(**{name: (ids, same_axes(ids), "integers")})
    if isinstance(ids, np.ndarray):
        check_ids_fit(ids, name)
    return ops.cast(ids, id_dtype())


def check_ids_fit(ids: np.ndarray, name: str = "item_ids") -> None:
    """Raise `ValueError` if the backend would cut these ids."""
    if backend_holds_int64() or not ids.size:
        return
    limits = np.iinfo(np.int32)
    if ids.min() < limits.min or ids.max() > limits.max:
        raise ValueError(
            f"`{name}` must fit 32 bits on the {keras.backend.backend()} "
            "backend, which holds no wider integers here: pass rows of an "
            "item table instead, or enable 64-bit types (`jax_enable_x64`). "
            f"Received: values from {ids.min()} to {ids.max()}"
        )
