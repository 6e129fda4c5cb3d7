"""What is accepted as a whole number, against plain Python."""

import ast
import decimal
import math
import pathlib

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from muse_tools.datasets import casting

NAN = math.nan
BIG = 2**53
INT64, INT8 = pa.int64(), pa.int8()
ROOT = pathlib.Path(__file__).parents[3]

EXACT = [
    (pa.int8(), [-128, None, 127]),
    (pa.int16(), [-(2**15), None]),
    (pa.int32(), [2**31 - 1, None, -5]),
    (pa.int64(), [2**60 + 1, None, -(2**63), 2**63 - 1]),
    (pa.uint8(), [255, None]),
    (pa.uint32(), [2**32 - 1]),
    (pa.uint64(), [2**60 + 1, None, 2**63 - 1]),
    (pa.decimal128(38, 0), [2**62 + 1, None, -3]),
    (pa.decimal256(60, 0), [2**62 + 1, None]),
    (pa.decimal128(20, 2), [7, None]),
    (pa.float64(), [1.0, None, NAN, BIG - 1.0, 1.0 - BIG]),
    (pa.float32(), [3.0, None, NAN, 2.0**24 - 1]),
    (pa.float16(), [np.float16(3), None, np.float16(2047)]),
    (pa.null(), [None, None]),
]


def whole(values):
    return [None if v is None or v != v else int(v) for v in values]


@pytest.mark.parametrize(("kind", "values"), EXACT, ids=lambda x: str(x)[:20])
@pytest.mark.parametrize("cut", [0, 1])
def test_whole_numbers_are_whole_numbers(kind, values, cut):
    assert casting.accepts(INT64, kind)
    column = pa.array(values, kind).slice(cut)
    found = casting.cast(column, INT64)
    assert found.type == INT64 and found.to_pylist() == whole(values[cut:])
    lists = pa.array([values, None, [], values], pa.list_(kind)).slice(cut)
    wanted = pa.list_(pa.field("element", INT64))
    found = casting.cast(lists, wanted)
    found.validate(full=True)
    assert casting.accepts(wanted, lists.type)
    assert str(found.type) == str(wanted)
    expected = [whole(values), None, [], whole(values)][cut:]
    assert found.to_pylist() == expected


@pytest.mark.parametrize(
    ("kind", "value", "wanted"),
    [
        (pa.uint64(), 2**63, INT64),
        (pa.decimal128(38, 0), 2**63, INT64),
        (pa.decimal128(20, 1), decimal.Decimal("1.5"), INT64),
        (pa.float64(), 1.5, INT64),
        (pa.float64(), float(BIG), INT64),
        (pa.float64(), math.inf, INT64),
        (pa.float32(), 2.0**24, INT64),
        (pa.int64(), 128, INT8),
        (pa.uint8(), 128, INT8),
        (pa.float64(), -129, INT8),
    ],
)
def test_what_does_not_survive_is_named(kind, value, wanted):
    with pytest.raises(ValueError, match=f"^{value}".replace("+", r"\+")):
        casting.cast(pa.array([1, None, value, 2], kind), wanted)


@pytest.mark.parametrize(
    "kind",
    [
        pa.string(),
        pa.bool_(),
        pa.binary(16),
        pa.timestamp("s"),
        pa.list_(pa.int64()),
        pa.struct([("x", pa.int64())]),
    ],
)
def test_what_is_no_number(kind):
    assert not casting.accepts(INT64, kind)
    assert not casting.accepts(pa.list_(INT64), pa.list_(kind))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(st.none(), st.floats(width=64), st.integers(-9, 9).map(float))
    )
)
def test_floats_like_python(values):
    good = all(
        v is None or v != v or (abs(v) < BIG and v == int(v)) for v in values
    )
    column = pa.array(values, pa.float64())
    if good:
        assert casting.cast(column, INT64).to_pylist() == whole(values)
    else:
        with pytest.raises(ValueError):
            casting.cast(column, INT64)


def test_codes_of_float_vectors():
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(5, 128)) * [[1e-3], [1], [1e9], [1], [1]]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = np.trunc(127 * unit).astype(int).tolist()
    for kind in (pa.float32(), pa.float64()):
        rows = pa.array(
            [*vectors.tolist(), None, [0.0] * 128, [NAN, 1.0], [None, 1.0], []],
            pa.list_(kind),
        )
        found = casting.quantize(rows)
        found.validate(full=True)
        assert found.to_pylist() == [
            *expected,
            None,
            [0] * 128,
            None,
            None,
            [],
        ]
        assert (
            casting.quantize(rows.slice(3)).to_pylist()
            == (found.to_pylist()[3:])
        )


def test_no_column_leaves_arrow_by_another_way():
    """Integers with a null become floats there, which round ids."""
    allowed = {ROOT / "muse_tools/datasets/arrow_lists.py"}
    places = [
        ROOT / "muse_tools/datasets",
        ROOT / "tfx_pipeline/transforms",
        ROOT / "muse_tools/datasets/user_lookup.py",
        ROOT / "muse_tools/stores",
    ]
    found = []
    for place in places:
        for path in [place] if place.is_file() else place.rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                if (
                    isinstance(node, ast.Attribute)
                    and node.attr in ("to_numpy", "to_pandas")
                    and path not in allowed
                ):
                    found.append(f"{path.name}:{node.lineno}")
    assert not found
