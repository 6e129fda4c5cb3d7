"""Message classes, from the .proto files of this folder.

`messages.binpb` holds what protoc reads in them; after a change of a file:

    protoc -I. --include_imports --descriptor_set_out=messages.binpb *.proto

The classes live in a descriptor pool of their own: TensorFlow registers the
same names in protobuf's default pool, and generated code would as well. Both
sets of classes live in one process and have the same bytes.
"""

from __future__ import annotations

import pathlib
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FILE = pathlib.Path(__file__).with_name("messages.binpb")
_POOL = descriptor_pool.DescriptorPool()
for _file in descriptor_pb2.FileDescriptorSet.FromString(
    _FILE.read_bytes()
).file:
    _POOL.AddSerializedFile(_file.SerializeToString())


def message_class(name: str) -> Any:
    """Returns the class of a message, by its full name."""
    descriptor = _POOL.FindMessageTypeByName(name)
    if hasattr(message_factory, "GetMessageClass"):
        return message_factory.GetMessageClass(descriptor)
    return message_factory.MessageFactory(_POOL).GetPrototype(descriptor)


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
