"""Reads columns of times in ISO 8601, with and without a zone.

The type of such a column is a timestamp in the zone of times without one.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

_ZONE = r"(Z|[+-]\d\d:?\d\d|:[\d.]+[+-]\d\d)$"


def asked(kind: pa.DataType) -> pa.DataType:
    """Returns the type to read a column as: text for times."""
    return pa.string() if pa.types.is_timestamp(kind) else kind


def read(
    column: pa.Array, kind: pa.DataType, nulls: Sequence[str] = ("",)
) -> pa.Array:
    """Turns texts into times if `kind` is the type of times.

    A `pa.ArrowInvalid` names a text that is not a time.
    """
    if not pa.types.is_timestamp(kind):
        return column
    column = pc.if_else(
        pc.is_in(column, value_set=pa.array(nulls)), None, column
    )
    zoned = pc.match_substring_regex(column, _ZONE)
    local = pc.if_else(zoned, None, column).cast(pa.timestamp("us"))
    others = pc.if_else(zoned, column, None).cast(kind)
    return pc.coalesce(in_zone(local, kind.tz), others)


def in_zone(local: pa.Array, zone: str) -> pa.Array:
    """Returns the moments of local times in a zone.

    A time that occurs twice, as clocks go back, is the earlier one; one that
    clocks skip is the first after it, so that days keep their dates.
    """
    return pc.assume_timezone(
        local, zone, ambiguous="earliest", nonexistent="latest"
    )


def fits(text: str, kind: pa.DataType) -> bool:
    """Returns whether a text can be read as a type."""
    try:
        read(pa.array([text]), kind).cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def expected(kind: pa.DataType) -> str:
    """Returns a type in words for messages."""
    if pa.types.is_timestamp(kind):
        return "a time in ISO 8601, such as 2026-03-01T12:00:00+01:00"
    return f"{kind}, as in the rows before"
