"""A sample request for the served model."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from serving.client.calls import Target
from serving.client.errors import RequestError
from serving.client.wire_rest import predict_call
from serving.model_server.errors import ServingError
from serving.model_server.model_manager import ModelManager
from serving.model_server.servable import Servable
from serving.model_server.signatures import DEFAULT_SIGNATURE, run_signature
from serving.model_server.warmup import read_warmup
from serving.wire.tensors import TensorError, array_from_proto

_PREFERRED = ("rank", DEFAULT_SIGNATURE)
_ZEROS: dict[int, Any] = {
    1: np.float32,
    2: np.float64,
    3: np.int32,
    9: np.int64,
    10: np.bool_,
}


@dataclasses.dataclass(frozen=True)
class SampleRequest:
    """A request in the column form of REST."""

    signature: str
    body: str


def sample_request(manager: ModelManager, name: str) -> SampleRequest | None:
    """Returns a request that a model answers.

    It is the first warmup record of the signature `rank`, or else of any; or
    zeros of the declared shapes without warmup. It is tried before.
    """
    try:
        with manager.lease(name) as servable:
            for signature, inputs in _candidates(servable):
                try:
                    ordered = dict(sorted(inputs.items()))
                    call = predict_call(Target(name), signature, ordered)
                    run_signature(servable, signature, inputs, timeout_ms=60000)
                except (RequestError, ServingError):
                    continue
                return SampleRequest(signature, (call.body or b"").decode())
    except ServingError:
        return None
    return None


def curl_line(url: str, name: str, body: str, file: str | None = None) -> str:
    """Returns a shell command that sends a request."""
    data = f"@{file}" if file else body
    return f"curl -s -d {shlex.quote(data)} {url}/v1/models/{name}:predict"


def _candidates(
    servable: Servable,
) -> Iterator[tuple[str, Mapping[str, np.ndarray]]]:
    recorded: dict[str, Mapping[str, np.ndarray]] = {}
    try:
        for log in read_warmup(servable.path):
            request = log.predict_log.request
            name = request.model_spec.signature_name or DEFAULT_SIGNATURE
            if request.inputs and name not in recorded:
                recorded[name] = {
                    alias: array_from_proto(proto)
                    for alias, proto in request.inputs.items()
                }
            if _PREFERRED[0] in recorded:
                break
    except (ServingError, TensorError):
        recorded.clear()
    for name in sorted(recorded, key=_preference):
        yield name, recorded[name]
    for name in sorted(servable.signatures, key=_preference):
        infos = servable.signatures[name].inputs
        if infos and all(info.dtype in _ZEROS for info in infos.values()):
            yield name, {alias: _zeros(info) for alias, info in infos.items()}


def _zeros(info: Any) -> np.ndarray:
    shape = [abs(dim.size) for dim in info.tensor_shape.dim]
    return np.zeros(shape, _ZEROS[info.dtype])


def _preference(name: str) -> tuple[int, str]:
    known = name in _PREFERRED
    return _PREFERRED.index(name) if known else len(_PREFERRED), name
