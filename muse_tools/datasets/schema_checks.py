"""Checks the columns of a file against the schema of its table."""

from __future__ import annotations

import pyarrow as pa

from muse_tools.datasets import casting, decoding
from muse_tools.datasets.errors import DataError
from muse_tools.datasets.table_schemas import (
    EMBEDDING_DIM,
    LABEL,
    SCL_EMBEDDING,
    column_of,
    describe_column,
    same_ids,
)
from schemas import ranking_schema

_TYPE_HINTS = {
    LABEL: (
        "make {column} list<int8> of two: [1, 0] where the item was not "
        "clicked, [0, 1] where it was, that is [1 - c, c] for a click c."
    ),
    "plain label": (
        "write {column} as int64, 1 where the item was clicked, else 0; or "
        "declare labels.<name>.at_least for scores, labels.<name>.one_hot for "
        "lists [1 - c, c]."
    ),
    SCL_EMBEDDING: (
        f"make {{column}} a list of {EMBEDDING_DIM} floats or int8 codes "
        "for each item; floats become codes here. Do not cast floats to int8: "
        "most would be 0. Codes are trunc(127 * v / |v|)."
    ),
    "time": (
        "write time in whole seconds as int64; from an Arrow timestamp or date "
        "by column.cast('timestamp[s]').cast('int64')."
    ),
}


def schema_problems(
    schema: pa.Schema, expected: pa.Schema, table: str
) -> list[DataError]:
    """Returns the errors of a file's schema, compared with the expected one."""
    problems = []
    for field in expected:
        name, column = column_of(field), describe_column(field)
        found = schema.get_all_field_indices(name)
        wanted = decoding.describe(field)
        if not found:
            have = ", ".join(schema.names) or "none"
            problems.append(
                DataError(
                    "MISSING_COLUMN",
                    f"table {table}: column {column} is missing. "
                    f"Expected: {wanted}. Received columns: {have}.",
                    f"write column {name} as {wanted} into {table}, or name "
                    f"another column in {ranking_schema.FILE_NAME} beside it.",
                )
            )
        elif len(found) > 1:
            problems.append(
                DataError(
                    "DUPLICATE_COLUMN",
                    f"table {table}: column {column} occurs {len(found)} "
                    "times. Expected: once.",
                    f"keep one column {name} in {table}.",
                )
            )
        elif not decoding.accepts(field, schema.field(found[0]).type):
            problems.append(
                wrong_type(table, field, schema.field(found[0]).type)
            )
    return problems


def wrong_type(
    table: str, field: pa.Field, received: pa.DataType, value: str = ""
) -> DataError:
    """Returns the error for a column whose type is not accepted."""
    example = f", which holds {value}" if value else ""
    column = column_of(field)
    hint = casting.hint(field.with_name(column), received, same_ids(field))
    plain = field.name == LABEL and not casting.is_list(field.type)
    key = "plain label" if plain else field.name
    hint = _TYPE_HINTS.get(key, hint).format(column=column)
    return DataError(
        "WRONG_TYPE",
        f"table {table}: column {describe_column(field)} has the wrong "
        f"type. Expected: {decoding.describe(field)}. Received: "
        f"{casting.describe(received)}{example}.",
        f"{hint} Then write the table again.",
    )


def empty_table(name: str) -> DataError:
    """Returns the error for a table without rows."""
    return DataError(
        "EMPTY_TABLE",
        f"table {name}: no rows. Expected: at least one.",
        f"write {name} again with its rows.",
    )
