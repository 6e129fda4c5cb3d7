"""Ways to the server of the toy model, embedded or not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(scope="module")
def channel(toy: Any) -> Iterator[Any]:
    import grpc

    options = [
        ("grpc.max_receive_message_length", -1),
        ("grpc.max_send_message_length", -1),
    ]
    with grpc.insecure_channel(toy.grpc, options) as channel:
        yield channel


@pytest.fixture(scope="module")
def stub(channel: Any) -> Any:
    from tensorflow_serving.apis import prediction_service_pb2_grpc

    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


@pytest.fixture(scope="module")
def rest(toy: Any) -> Any:
    from tests.serving.toy_calls import Rest

    return Rest(toy.rest)
