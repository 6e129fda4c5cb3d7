"""The file of fresh items: Parquet with one row per item.

Reading it needs pyarrow, unlike the rest of the client.
"""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from serving.client.feature_values import objects
from serving.files import appearing, parquet_footer

if TYPE_CHECKING:
    import pyarrow as pa

_ITEM_ID = ("item_id", "205")
_EMBEDDING = ("embedding", "item_vector", "205_c")
# Columns of the published data set, by declared name.
_PUBLISHED = {"category": "206", "city": "213", "province": "214"}

_LARGEST_CODE = np.float32(127)


@dataclasses.dataclass(frozen=True, eq=False)
class ItemFile:
    """The items of a file: the last valid row of each id.

    Ids are int64 (N,) or texts; the embedding is float32 (N, D). `features`
    holds the features in the file by declared name, (N,): numbers, texts or
    lists. `superseded` counts valid rows that a later row with the same id
    replaces, `rejected` counts invalid rows by reason.
    """

    item_ids: np.ndarray
    embedding: np.ndarray
    features: Mapping[str, np.ndarray]
    superseded: int
    rejected: Mapping[str, int]


def rejected_file(path: pathlib.Path) -> pathlib.Path:
    """Returns the path for the rejected rows of a file."""
    return path.with_name(f"{path.stem}.rejected.parquet")


def check_exists(path: pathlib.Path) -> None:
    """Raises FileNotFoundError, naming the columns, if the file is absent."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: there is no such file; expected Parquet with the columns "
            "item_id, embedding and, if known, the model's features of items"
        )


def read_item_file(
    path: pathlib.Path, dim: int, features: Mapping[str, str]
) -> ItemFile:
    """Reads a file of items, and writes the rejected rows to a second file.

    Columns: `item_id` is int or text; `embedding` is a list of `dim` numbers
    (floats of any length, or int8 codes, which are 127 times the vector); a
    feature `f` is optional, under the name `item_<f>`, `<f>` or `<f>_id`, or
    that of the published data set: int, float, text, or lists of these. A null
    feature is missing. Other columns are ignored.

    Rejected rows are written to `<name>.rejected.parquet` with a column
    `reason`. Without rejected rows there is no such file.

    Args:
        path: Parquet file.
        dim: width of a vector in the served table.
        features: type (`int64` or `float`) of each item feature of the model.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the file is not Parquet, or a column is missing or has a
            wrong type.
        ImportError: pyarrow is not installed.
    """
    pa, table = _read(path)
    item_id = _column(path, table, _ITEM_ID)
    ids = _ids(pa, path, item_id)
    embedding = _column(path, table, _EMBEDDING)
    vectors, faults = _vectors(pa, path, embedding, dim)
    reasons = np.full(table.num_rows, "", object)
    for reason, rows in (
        ("item_id is null", _is_null(item_id)),
        ("item_id is 0, which means padding", ~ids.astype(bool)),
        *faults,
    ):
        reasons[rows & (reasons == "")] = reason
    good = np.flatnonzero(reasons == "")
    # Keep the last row of each id.
    _, from_end = np.unique(ids[good][::-1], return_index=True)
    chosen = good[np.sort(len(good) - 1 - from_end)]
    _write_rejected(pa, rejected_file(path), table, reasons)
    names, counts = np.unique(
        reasons[reasons != ""].astype(str), return_counts=True
    )
    return ItemFile(
        item_ids=ids[chosen],
        embedding=vectors[chosen],
        features={
            name: _values(pa, path, column, dtype)[chosen]
            for name, dtype in features.items()
            if (column := _feature(table, name)) is not None
        },
        superseded=len(good) - len(chosen),
        rejected=dict(zip(names.tolist(), counts.tolist(), strict=True)),
    )


def _read(path: pathlib.Path) -> tuple[pa, pa.Table]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise ImportError(
            "reading a file of items needs pyarrow: pip install pyarrow"
        ) from error
    check_exists(path)
    try:
        metadata = pq.read_metadata(pa.BufferReader(parquet_footer(path)))
        with pq.ParquetFile(path, metadata=metadata) as file:
            return pa, file.read()
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{path}: is not a Parquet file or cannot be read: {error}"
        ) from error


def _column(
    path: pathlib.Path, table: pa.Table, names: Sequence[str]
) -> pa.Array:
    """Returns the first column that the table has of `names`."""
    for name in names:
        if name in table.column_names:
            return table.column(name).combine_chunks()
    raise ValueError(
        f"{path}: a column must be named {' or '.join(names)}. "
        f"Received: {table.column_names}"
    )


def _feature(table: pa.Table, name: str) -> pa.Array | None:
    """Returns the column of a feature, or None."""
    names = [f"item_{name}", name, f"{name}_id", _PUBLISHED.get(name)]
    found = [column for column in names if column in table.column_names]
    return table.column(found[0]).combine_chunks() if found else None


def _ids(pa: pa, path: pathlib.Path, column: pa.Array) -> np.ndarray:
    """Returns keys (N,), int64 or texts; null becomes 0 or an empty text."""
    if not _is_text(pa, column.type):
        return _integers(pa, path, column)
    return objects([text or "" for text in column.to_pylist()])


def _values(
    pa: pa, path: pathlib.Path, column: pa.Array, dtype: str
) -> np.ndarray:
    """Returns values of a feature (N,): numbers, texts or lists."""
    if _is_text(pa, column.type) or pa.types.is_nested(column.type):
        return objects(column.to_pylist())
    if dtype != "float":
        return _integers(pa, path, column)
    try:
        values = column.cast(pa.float64())
    except pa.ArrowException as error:
        raise ValueError(
            f"{path}: a feature that the model declares as float must be "
            f"numbers. Received: {column.type}"
        ) from error
    return values.to_numpy(zero_copy_only=False)


def _is_text(pa: pa, kind: pa.DataType) -> bool:
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _integers(pa: pa, path: pathlib.Path, column: pa.Array) -> np.ndarray:
    """Returns whole numbers (N,) as int64, with 0 for null."""
    types, found = pa.types, column.type
    fits = types.is_integer(found) or types.is_decimal(found)
    if types.is_floating(found):
        values = column.to_numpy(zero_copy_only=False)
        column = pa.array(values, from_pandas=True)  # NaN is null.
        # Above this limit the float type may have rounded odd numbers.
        limit = 2.0 ** (np.finfo(values.dtype).nmant + 1)
        fits = not (np.abs(values) >= limit).any()
    with contextlib.suppress(pa.ArrowInvalid):
        if fits or types.is_null(found):
            whole = column.cast(pa.int64()).fill_null(0)
            return whole.to_numpy(zero_copy_only=False)
    raise ValueError(
        f"{path}: ids must be integers: whole numbers that fit in int64, as "
        f"floats below 2^53. Received: {found}"
    )


def _vectors(
    pa: pa, path: pathlib.Path, column: pa.Array, dim: int
) -> tuple[np.ndarray, list[tuple[str, np.ndarray]]]:
    """Returns float32 (N, dim), and the invalid rows by reason."""
    types = pa.types
    if not types.is_list(column.type) or not (
        types.is_floating(column.type.value_type)
        or column.type.value_type == pa.int8()
    ):
        raise ValueError(
            f"{path}: the embedding must be a list of floats or int8. "
            f"Received: {column.type}"
        )
    is_null = _is_null(column)
    lengths = column.value_lengths().fill_null(0).to_numpy()
    values = column.flatten()
    is_coded = values.type == pa.int8()
    # A null inside a list becomes NaN.
    flat = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
    fits = lengths == dim
    vectors = np.zeros((len(column), dim), np.float32)
    with np.errstate(over="ignore"):  # Infinity is rejected below.
        vectors[fits] = flat[np.repeat(fits, lengths)].reshape(-1, dim)
    if is_coded:
        vectors /= _LARGEST_CODE
    return vectors, [
        ("embedding is null", is_null),
        *(
            (f"embedding has {width} numbers, not {dim}", lengths == width)
            for width in np.unique(lengths[~fits]).tolist()
        ),
        ("embedding has NaN or infinity", ~np.isfinite(vectors).all(axis=1)),
        ("embedding is zero", ~vectors.any(axis=1)),
    ]


def _is_null(column: pa.Array) -> np.ndarray:
    """Returns bool (N,), True for null and NaN."""
    return column.is_null(nan_is_null=True).to_numpy(zero_copy_only=False)


def _write_rejected(
    pa: pa, path: pathlib.Path, table: pa.Table, reasons: np.ndarray
) -> None:
    """Writes the rejected rows atomically, or removes earlier ones."""
    import pyarrow.parquet as pq

    rows = np.flatnonzero(reasons != "")
    if not len(rows):
        path.unlink(missing_ok=True)
        return
    rejected = table.take(rows).append_column(
        "reason", pa.array(reasons[rows].tolist(), pa.string())
    )
    with appearing(path) as temporary:
        pq.write_table(rejected, temporary)
