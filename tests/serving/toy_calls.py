"""Calls of the toy model, by gRPC's messages and by plain HTTP."""

from __future__ import annotations

import http.client
import json
import pathlib
import urllib.parse

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import predict_pb2


class Rest:
    def __init__(self, url: str) -> None:
        self._host = urllib.parse.urlsplit(url).netloc

    def send(self, method: str, path: str, body: bytes | None = None):
        connection = http.client.HTTPConnection(self._host, timeout=30)
        try:
            connection.request(method, path, body)
            response = connection.getresponse()
            text = response.read().decode("utf-8", "surrogateescape")
            return response.status, text, response.headers
        finally:
            connection.close()

    def get(self, path: str):
        status, text, _ = self.send("GET", path)
        return status, json.loads(text)

    def predict(self, body, path: str = "/v1/models/toy"):
        if not isinstance(body, bytes):
            body = json.dumps(body).encode()
        status, text, _ = self.send("POST", path + ":predict", body)
        return status, json.loads(text)

    def error(self, body, path: str = "/v1/models/toy") -> tuple[int, str]:
        status, found = self.predict(body, path)
        assert set(found) == {"error"}
        return status, found["error"]


class Hold:
    """Calls of the signature hold, which run until they are let go.

    Args:
        folder: empty; the model server reads and writes there.
    """

    def __init__(self, folder: pathlib.Path) -> None:
        self.file = str(folder / "go")

    @property
    def runs(self) -> bool:
        """Whether the graph of a call has begun."""
        return pathlib.Path(self.file + ".held").exists()

    def message(self) -> predict_pb2.PredictRequest:
        return make("hold", file=self.file)

    def body(self) -> bytes:
        return json.dumps(
            {"signature_name": "hold", "inputs": self.file}
        ).encode()

    def release(self) -> None:
        pathlib.Path(self.file).touch()


def make(signature: str, **inputs) -> predict_pb2.PredictRequest:
    request = predict_pb2.PredictRequest()
    request.model_spec.name = "toy"
    request.model_spec.signature_name = signature
    for name, value in inputs.items():
        request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
    return request


def failure(call, request, **options) -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.RpcError) as caught:
        call(request, **options)
    return caught.value.code(), caught.value.details()


def outputs(response) -> dict[str, np.ndarray]:
    return {k: tf.make_ndarray(v) for k, v in response.outputs.items()}
