"""Message classes, from the .proto files of this folder.

The classes are in a separate descriptor pool, because TensorFlow registers the
same names in protobuf's default pool, as generated code would. Both sets of
classes can be used in one process and serialize to the same bytes.
"""

from __future__ import annotations

import pathlib
from typing import Any

from google.protobuf import (
    any_pb2,
    descriptor_pool,
    message_factory,
    wrappers_pb2,
)

from serving.wire.proto_files import read_proto

_FOLDER = pathlib.Path(__file__).parent
POOL = descriptor_pool.DescriptorPool()
for _module in (any_pb2, wrappers_pb2):
    POOL.AddSerializedFile(_module.DESCRIPTOR.serialized_pb)
for _name in ("tensorflow.proto", "tensorflow_serving.proto", "ranking.proto"):
    POOL.AddSerializedFile(read_proto(_FOLDER / _name).SerializeToString())


def message_class(name: str) -> Any:
    """Returns the class of a message by its full name."""
    descriptor = POOL.FindMessageTypeByName(name)
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(descriptor)
    return message_factory.MessageFactory(POOL).GetPrototype(descriptor)


Example = message_class("tensorflow.Example")
TensorProto = message_class("tensorflow.TensorProto")

GetModelMetadataRequest = message_class(
    "tensorflow.serving.GetModelMetadataRequest"
)
GetModelMetadataResponse = message_class(
    "tensorflow.serving.GetModelMetadataResponse"
)
GetModelStatusRequest = message_class(
    "tensorflow.serving.GetModelStatusRequest"
)
GetModelStatusResponse = message_class(
    "tensorflow.serving.GetModelStatusResponse"
)
MonitoringConfig = message_class("tensorflow.serving.MonitoringConfig")
PredictRequest = message_class("tensorflow.serving.PredictRequest")
PredictResponse = message_class("tensorflow.serving.PredictResponse")
SignatureDefMap = message_class("tensorflow.serving.SignatureDefMap")
SSLConfig = message_class("tensorflow.serving.SSLConfig")
