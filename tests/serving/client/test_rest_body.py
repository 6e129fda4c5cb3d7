"""REST bodies are the same with and without orjson."""

from __future__ import annotations

import json
import math

import hypothesis
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import strategies as st

from serving.client import TensorSpec, wire_rest
from serving.client.calls import Target

shapes = hnp.array_shapes(min_dims=0, max_dims=3, min_side=1, max_side=4)
dtypes = st.sampled_from([np.int64, np.int32, ">i8", np.uint8, np.bool_])


@pytest.mark.parametrize("with_orjson", [True, False])
@hypothesis.given(
    st.dictionaries(
        st.text(max_size=4),
        dtypes.flatmap(lambda dtype: hnp.arrays(dtype, shapes)),
        max_size=3,
    ),
    st.text(max_size=4),
)
def test_body(with_orjson, inputs, signature):
    with pytest.MonkeyPatch.context() as patch:
        if not with_orjson:
            patch.setattr(wire_rest, "orjson", None)
        call = wire_rest.predict_call(Target("m"), signature, inputs)
    assert json.loads(call.body) == {
        "signature_name": signature,
        "inputs": {name: array.tolist() for name, array in inputs.items()},
    }


def test_arrays_that_are_not_contiguous():
    base = np.arange(12, dtype=np.int64).reshape(3, 4)
    call = wire_rest.predict_call(Target("m"), "s", {"x": base.T[::2]})
    assert json.loads(call.body)["inputs"]["x"] == base.T[::2].tolist()


@pytest.mark.parametrize("with_orjson", [True, False])
def test_answers(with_orjson, monkeypatch):
    """NaN and Infinity are not JSON, but TensorFlow Serving writes them."""
    if not with_orjson:
        monkeypatch.setattr(wire_rest, "orjson", None)
    specs = {"y": TensorSpec("float", (-1,)), "z": TensorSpec("int64", (-1,))}
    for y in ([0.1, -3e-9], [math.nan, 1.5], [math.inf, -math.inf]):
        body = json.dumps({"outputs": {"y": y, "z": [2**63 - 1, -(2**63)]}})
        found = wire_rest.read_predict(body.encode(), specs)
        np.testing.assert_array_equal(found["y"], np.array(y, np.float32))
        assert found["y"].dtype == np.float32
        assert found["z"].tolist() == [2**63 - 1, -(2**63)]
