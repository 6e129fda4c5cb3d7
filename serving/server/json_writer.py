"""Values and arrays to JSON text, laid out as TF Serving lays it out.

Numbers are the shortest of six digits or full precision that read back as the
same value, whole decimals keep ".0", and NaN and Infinity are bare words, and
bytes that are no text stay what they are (as surrogates, to be encoded by
"surrogateescape"): invalid JSON, but what the real server prints.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from serving.client.tensors import DTYPE_NAMES, dtype_number
from serving.server.errors import invalid_argument

__all__ = [
    "classifications_json",
    "decimal_text",
    "error_json",
    "outputs_json",
    "predictions_json",
    "pretty",
    "regressions_json",
]

_INDENT = "    "
_WORDS = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
_MAX_DIGITS = {np.dtype(np.float32): 9, np.dtype(np.float64): 17}


def pretty(value: Any) -> str:
    """A parsed value as indented JSON, for texts of errors."""
    try:
        return json.dumps(
            value, indent=4, ensure_ascii=False, default=np.ndarray.tolist
        )
    except RecursionError:
        return "…"


def error_json(message: str) -> str:
    """An error as TF Serving's body."""
    return pretty({"error": message})


def decimal_text(value: Any, dtype: np.dtype) -> str:
    """One float as text.

    Args:
        value: the number.
        dtype: float32 or float64, which decides the precision.
    """
    number = float(value)
    text = f"{number:.6g}"
    if dtype.type(text) != value:
        text = f"{number:.{_MAX_DIGITS[dtype]}g}"
    return _spelled(text)


def predictions_json(outputs: Mapping[str, np.ndarray]) -> str:
    """Outputs in row form: a list of one entry per row.

    Args:
        outputs: alias to array.

    Raises:
        ServingError: an output has no batch dimension, or they differ in it,
            or cannot be written.
    """
    if not outputs:
        raise invalid_argument("Cannot convert empty tensor map to JSON")
    batch = -1
    for name, array in outputs.items():
        if array.ndim == 0:
            raise invalid_argument(
                f"Tensor name: {name} has no shape information "
            )
        if batch >= 0 and array.shape[0] != batch:
            raise invalid_argument(
                f"Tensor name: {name} has inconsistent batch size: "
                f"{array.shape[0]} expecting: {batch}"
            )
        batch = array.shape[0]
    rows = {
        name: [_one_line(row) for row in _texts(name, array)]
        for name, array in sorted(outputs.items())
    }
    if batch == 0:
        body = "[]"
    elif len(rows) == 1:
        only = next(iter(rows.values()))
        body = "[" + ", ".join(only) + f"\n{_INDENT}]"
    else:
        names = {name: json.dumps(name, ensure_ascii=False) for name in rows}
        inner, deeper = _INDENT * 2, _INDENT * 3
        objects = (
            f"{inner}{{\n"
            + ",\n".join(
                f"{deeper}{names[name]}: {texts[row]}"
                for name, texts in rows.items()
            )
            + f"\n{inner}}}"
            for row in range(batch)
        )
        body = "[\n" + ",\n".join(objects) + f"\n{_INDENT}]"
    return f'{{\n{_INDENT}"predictions": {body}\n}}'


def outputs_json(outputs: Mapping[str, np.ndarray]) -> str:
    """Outputs in column form: one array per output.

    Args:
        outputs: alias to array.

    Raises:
        ServingError: an output cannot be written.
    """
    if not outputs:
        raise invalid_argument("Cannot convert empty tensor map to JSON")
    if len(outputs) == 1:
        ((name, array),) = outputs.items()
        body = _many_lines(_texts(name, array), 1)
    else:
        members = (
            f"{_INDENT * 2}{json.dumps(name, ensure_ascii=False)}: "
            f"{_many_lines(_texts(name, array), 2)}"
            for name, array in sorted(outputs.items())
        )
        body = "{\n" + ",\n".join(members) + f"\n{_INDENT}}}"
    return f'{{\n{_INDENT}"outputs": {body}\n}}'


def classifications_json(result: Any) -> str:
    """A ClassificationResult: per row a list of [label, score] pairs.

    Args:
        result: the message.

    Raises:
        ServingError: it has no rows.
    """
    if not result.classifications:
        raise invalid_argument(
            "Cannot convert empty ClassificationResults to JSON"
        )
    single = np.dtype(np.float32)
    rows = (
        "["
        + ", ".join(
            f"[{json.dumps(entry.label, ensure_ascii=False)}, "
            f"{decimal_text(np.float32(entry.score), single)}]"
            for entry in row.classes
        )
        + "]"
        for row in result.classifications
    )
    return f'{{\n{_INDENT}"results": [{", ".join(rows)}\n{_INDENT}]\n}}'


def regressions_json(result: Any) -> str:
    """A RegressionResult: a list of numbers.

    Args:
        result: the message.

    Raises:
        ServingError: it has no rows.
    """
    if not result.regressions:
        raise invalid_argument("Cannot convert empty RegressionResults to JSON")
    single = np.dtype(np.float32)
    values = (
        decimal_text(np.float32(row.value), single)
        for row in result.regressions
    )
    return f'{{\n{_INDENT}"results": [{", ".join(values)}]\n}}'


def _texts(name: str, array: np.ndarray) -> Any:
    """The array as nested lists of number texts."""
    if array.dtype in _MAX_DIGITS:
        return _nest(_decimal_texts(array.ravel()), array.shape)
    write = _writer(name, array)
    flat = [write(value) for value in array.ravel().tolist()]
    return _nest(flat, array.shape)


def _decimal_texts(array: np.ndarray) -> list[str]:
    """`decimal_text` of each value (N,), tried with six digits together."""
    values = array.tolist()
    short = [f"{value:.6g}" for value in values]
    with np.errstate(over="ignore"):
        same = np.array(list(map(float, short))).astype(array.dtype) == array
    digits = _MAX_DIGITS[array.dtype]
    return [
        _spelled(text if fits else f"{value:.{digits}g}")
        for text, value, fits in zip(short, values, same.tolist(), strict=True)
    ]


def _spelled(text: str) -> str:
    """A formatted number, marked as a decimal, or its bare word."""
    if "." in text or "e" in text:
        return text
    return _WORDS.get(text) or text + ".0"


def _nest(flat: list[Any], shape: tuple[int, ...]) -> Any:
    if not shape:
        return flat[0]
    if 0 in shape:
        return np.zeros(shape[: shape.index(0) + 1]).tolist()
    for size in reversed(shape[1:]):
        flat = [flat[i : i + size] for i in range(0, len(flat), size)]
    return flat


def _writer(name: str, array: np.ndarray) -> Callable[[Any], str]:
    kind = array.dtype.kind
    if array.dtype == np.float16 or array.dtype.name == "bfloat16":
        wide = np.dtype(np.float32)
        return lambda value: decimal_text(np.float32(value), wide)
    if kind == "b":
        return lambda value: "true" if value else "false"
    if kind in "iu":
        return str
    if kind in "OSU":
        if name.endswith("_bytes"):
            return _base64_text
        return _string_text
    number = dtype_number(array)
    raise invalid_argument(
        f"Failed to write JSON value for tensor type: "
        f"{DTYPE_NAMES.get(number, str(number))}"
    )


def _string_text(value: Any) -> str:
    raw = value if isinstance(value, bytes) else str(value).encode()
    return json.dumps(
        raw.decode("utf-8", "surrogateescape"), ensure_ascii=False
    )


def _base64_text(value: Any) -> str:
    raw = value if isinstance(value, bytes) else str(value).encode()
    return json.dumps({"b64": base64.b64encode(raw).decode()})


def _one_line(value: Any) -> str:
    if isinstance(value, str):
        return value
    return "[" + ", ".join(_one_line(item) for item in value) + "]"


def _many_lines(value: Any, level: int) -> str:
    if isinstance(value, str):
        return value
    if not value:
        return "[]"
    pad = _INDENT * (level + 1)
    inner = (f"{pad}{_many_lines(item, level + 1)}" for item in value)
    return "[\n" + ",\n".join(inner) + f"\n{_INDENT * level}]"
