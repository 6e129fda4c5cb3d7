"""REST bodies are the same with and without orjson."""

from __future__ import annotations

import json

import hypothesis
import hypothesis.extra.numpy as hnp
import numpy as np
import pytest
from hypothesis import strategies as st

from serving.client import wire_rest
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
