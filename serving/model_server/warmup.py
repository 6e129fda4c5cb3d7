"""Replays the warmup requests of an export."""

from __future__ import annotations

import os
from collections.abc import Iterator

import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from serving.model_server.errors import (
    ServingError,
    invalid_argument,
    unimplemented,
)
from serving.model_server.servable import Servable
from serving.model_server.signatures import predict

WARMUP_FILE = os.path.join("assets.extra", "tf_serving_warmup_requests")
_MAX_RECORDS = 1000


def read_warmup(path: str) -> Iterator[PredictionLog]:
    """Reads the warmup records of a version."""
    file = os.path.join(path, WARMUP_FILE)
    if not os.path.exists(file):
        return
    try:
        for record in tf.data.TFRecordDataset(file).as_numpy_iterator():
            try:
                log = PredictionLog.FromString(record)
            except DecodeError as error:
                raise invalid_argument(
                    "Failed to parse warmup record: it is not a PredictionLog"
                ) from error
            yield log
    except tf.errors.OpError as error:
        raise invalid_argument(
            f"Failed to read warmup requests {file}: {error.message}"
        ) from error


def warm_up(servable: Servable) -> int:
    """Runs all warmup records of a version; returns their number."""
    count = 0
    for log in read_warmup(servable.path):
        if count == _MAX_RECORDS:
            raise invalid_argument(
                f"Number of warmup records exceeds the maximum "
                f"({_MAX_RECORDS}) at {servable.path}"
            )
        kind = log.WhichOneof("log_type")
        try:
            if kind != "predict_log":
                raise unimplemented(f"Unsupported log_type for warmup: {kind}")
            predict(servable, log.predict_log.request)
        except ServingError as error:
            raise ServingError(
                error.code, f"warmup record {count} failed: {error.message}"
            ) from error
        count += 1
    return count
