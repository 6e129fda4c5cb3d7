"""The messages of TensorFlow Serving that the client needs.

Names and numbers (see `descriptors`) are those of
tensorflow/core/framework/{tensor,tensor_shape}.proto,
tensorflow/core/protobuf/meta_graph.proto (`SignatureDef`, `TensorInfo`),
tensorflow/core/example/{example,feature}.proto and
tensorflow_serving/apis/{model,predict,get_model_metadata,
get_model_status,status}.proto; fields that a client never reads are absent
and survive as unknown fields.
"""

from __future__ import annotations

from typing import Any

from google.protobuf import (
    any_pb2,
    descriptor_pb2,
    descriptor_pool,
    wrappers_pb2,
)

from serving.wire.descriptors import build_messages
from serving.wire.tensors import DTYPE_NAMES

CODES = (
    "OK CANCELLED UNKNOWN INVALID_ARGUMENT DEADLINE_EXCEEDED NOT_FOUND "
    "ALREADY_EXISTS PERMISSION_DENIED RESOURCE_EXHAUSTED FAILED_PRECONDITION "
    "ABORTED OUT_OF_RANGE UNIMPLEMENTED INTERNAL UNAVAILABLE DATA_LOSS "
    "UNAUTHENTICATED"
).split()
"""Canonical status codes, in the order of their numbers."""


def _private_pool() -> descriptor_pool.DescriptorPool:
    """Returns a pool with the well-known types that the messages refer to."""
    pool = descriptor_pool.DescriptorPool()
    for module in (any_pb2, wrappers_pb2):
        file = descriptor_pb2.FileDescriptorProto()
        module.DESCRIPTOR.CopyToProto(file)
        pool.AddSerializedFile(file.SerializeToString())
    return pool


_POOL = _private_pool()

_CORE: dict[str, Any] = build_messages(
    "tensorflow",
    {
        "TensorShapeProto": {
            "dim": "repeated .TensorShapeProto.Dim 2",
            "unknown_rank": "bool 3",
        },
        "TensorShapeProto.Dim": {"size": "int64 1", "name": "string 2"},
        # `dtype` is an enum in the original: the same bytes as int32.
        "TensorProto": {
            "dtype": "int32 1",
            "tensor_shape": ".TensorShapeProto 2",
            "tensor_content": "bytes 4",
            "float_val": "repeated float 5",
            "double_val": "repeated double 6",
            "int_val": "repeated int32 7",
            "string_val": "repeated bytes 8",
            "int64_val": "repeated int64 10",
            "bool_val": "repeated bool 11",
            "half_val": "repeated int32 13",
            "uint32_val": "repeated uint32 16",
            "uint64_val": "repeated uint64 17",
        },
        "TensorInfo": {
            "name": "string 1",
            "dtype": ".DataType 2",
            "tensor_shape": ".TensorShapeProto 3",
        },
        "SignatureDef": {
            "inputs": "map<string,.TensorInfo> 1",
            "outputs": "map<string,.TensorInfo> 2",
            "method_name": "string 3",
        },
        "BytesList": {"value": "repeated bytes 1"},
        "FloatList": {"value": "repeated float 1"},
        "Int64List": {"value": "repeated int64 1"},
        "Feature": {
            "bytes_list": ".BytesList 1 in kind",
            "float_list": ".FloatList 2 in kind",
            "int64_list": ".Int64List 3 in kind",
        },
        "Features": {"feature": "map<string,.Feature> 1"},
        "Example": {"features": ".Features 1"},
    },
    enums={
        "DataType": {
            "DT_INVALID": 0,
            **{f"DT_{n.upper()}": i for i, n in sorted(DTYPE_NAMES.items())},
        }
    },
    pool=_POOL,
    file_name="muse/tensorflow.proto",
)

_SERVING: dict[str, Any] = build_messages(
    "tensorflow.serving",
    {
        "ModelSpec": {
            "name": "string 1",
            "version": ".google.protobuf.Int64Value 2 in version_choice",
            "version_label": "string 4 in version_choice",
            "signature_name": "string 3",
        },
        "PredictRequest": {
            "model_spec": ".tensorflow.serving.ModelSpec 1",
            "inputs": "map<string,.tensorflow.TensorProto> 2",
            "output_filter": "repeated string 3",
        },
        "PredictResponse": {
            "outputs": "map<string,.tensorflow.TensorProto> 1",
            "model_spec": ".tensorflow.serving.ModelSpec 2",
        },
        "GetModelMetadataRequest": {
            "model_spec": ".tensorflow.serving.ModelSpec 1",
            "metadata_field": "repeated string 2",
        },
        "GetModelMetadataResponse": {
            "model_spec": ".tensorflow.serving.ModelSpec 1",
            "metadata": "map<string,.google.protobuf.Any> 2",
        },
        "SignatureDefMap": {
            "signature_def": "map<string,.tensorflow.SignatureDef> 1",
        },
        "StatusProto": {"error_code": ".Code 1", "error_message": "string 2"},
        "ModelVersionStatus": {
            "version": "int64 1",
            "state": ".ModelVersionStatus.State 2",
            "status": ".tensorflow.serving.StatusProto 3",
        },
        "GetModelStatusRequest": {
            "model_spec": ".tensorflow.serving.ModelSpec 1",
        },
        "GetModelStatusResponse": {
            "model_version_status": (
                "repeated .tensorflow.serving.ModelVersionStatus 1"
            ),
        },
    },
    enums={
        "ModelVersionStatus.State": {
            "UNKNOWN": 0,
            "START": 10,
            "LOADING": 20,
            "AVAILABLE": 30,
            "UNLOADING": 40,
            "END": 50,
        },
        "Code": {name: number for number, name in enumerate(CODES)},
    },
    pool=_POOL,
    dependencies=(
        "muse/tensorflow.proto",
        "google/protobuf/any.proto",
        "google/protobuf/wrappers.proto",
    ),
    file_name="muse/tensorflow_serving.proto",
)

Example = _CORE["Example"]
TensorProto = _CORE["TensorProto"]
GetModelMetadataRequest = _SERVING["GetModelMetadataRequest"]
GetModelMetadataResponse = _SERVING["GetModelMetadataResponse"]
GetModelStatusRequest = _SERVING["GetModelStatusRequest"]
GetModelStatusResponse = _SERVING["GetModelStatusResponse"]
PredictRequest = _SERVING["PredictRequest"]
PredictResponse = _SERVING["PredictResponse"]
SignatureDefMap = _SERVING["SignatureDefMap"]
