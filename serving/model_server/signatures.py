"""Predict: checks inputs and outputs, and runs a signature."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from tensorflow_serving.apis.predict_pb2 import PredictRequest, PredictResponse

from serving.model_server.errors import failed_precondition, invalid_argument
from serving.model_server.servable import Servable
from serving.wire.tensors import TensorError, array_from_proto, fill_proto

DEFAULT_SIGNATURE = "serving_default"


def run_signature(
    servable: Servable,
    signature_name: str,
    inputs: Mapping[str, np.ndarray],
    output_filter: Sequence[str] = (),
    timeout_ms: int | None = None,
) -> dict[str, np.ndarray]:
    """Runs a signature on arrays."""
    name = signature_name or DEFAULT_SIGNATURE
    signature = servable.signatures.get(name)
    if signature is None:
        raise failed_precondition(f'Serving signature key "{name}" not found.')
    feeds = _feeds(signature, inputs)
    aliases = _output_aliases(signature, output_filter)
    values = servable.run(
        feeds, [signature.outputs[a].name for a in aliases], timeout_ms
    )
    return dict(zip(aliases, values, strict=True))


def predict(
    servable: Servable,
    request: PredictRequest,
    timeout_ms: int | None = None,
) -> PredictResponse:
    """Answers a PredictRequest."""
    inputs = {}
    for alias, proto in request.inputs.items():
        try:
            inputs[alias] = array_from_proto(proto)
        except TensorError as error:
            raise invalid_argument(f"tensor parsing error: {alias}") from error
    name = request.model_spec.signature_name or DEFAULT_SIGNATURE
    outputs = run_signature(
        servable, name, inputs, request.output_filter, timeout_ms
    )
    response = PredictResponse()
    response.model_spec.name = servable.name
    response.model_spec.signature_name = name
    response.model_spec.version.value = servable.version
    for alias, array in outputs.items():
        fill_proto(response.outputs[alias], np.asarray(array), content=False)
    return response


def _feeds(
    signature: Any, inputs: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    wanted, sent = set(signature.inputs), set(inputs)
    defaults = getattr(signature, "defaults", {})
    extra, missing = sent - wanted, wanted - sent - set(defaults)
    if extra or missing:
        raise invalid_argument(
            f"input size does not match signature. "
            f"Sent extra: {_braced(extra)}. "
            f"Missing but required: {_braced(missing)}."
        )
    return {
        info.name: inputs[alias]
        if alias in inputs
        else array_from_proto(defaults[alias])
        for alias, info in sorted(signature.inputs.items())
    }


def _output_aliases(signature: Any, output_filter: Sequence[str]) -> list[str]:
    known = sorted(signature.outputs)
    seen: list[str] = []
    for alias in output_filter:
        if alias not in signature.outputs:
            raise invalid_argument(
                f"output tensor alias not found in signature: {alias} Outputs "
                f"expected to be in the set {_braced(known)}."
            )
        if alias in seen:
            raise invalid_argument(f"duplicate output tensor alias: {alias}")
        seen.append(alias)
    return seen or known


def _braced(names: Any) -> str:
    return "{" + ",".join(sorted(names)) + "}"
