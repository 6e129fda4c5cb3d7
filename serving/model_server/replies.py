"""Replies about models: their status and their signatures."""

from __future__ import annotations

import inspect
from typing import Any

import orjson
from google.protobuf import json_format
from tensorflow_serving.apis.get_model_metadata_pb2 import (
    GetModelMetadataResponse,
    SignatureDefMap,
)
from tensorflow_serving.apis.get_model_status_pb2 import GetModelStatusResponse

from serving.model_server.errors import invalid_argument
from serving.model_server.model_manager import ModelManager

_FIELD = "signature_def"
_DEFAULTS_FLAG = (
    "always_print_fields_with_no_presence"
    if "always_print_fields_with_no_presence"
    in inspect.signature(json_format.MessageToDict).parameters
    else "including_default_value_fields"  # Before protobuf 5.26.
)


def status_reply(
    manager: ModelManager, name: str, version: int | None = None
) -> GetModelStatusResponse:
    """Returns the states of a model's versions."""
    reply = GetModelStatusResponse()
    for number, status in manager.status(name, version).items():
        entry = reply.model_version_status.add()
        entry.version = number
        entry.state = int(status.state)
        entry.status.error_code = status.code.value[0]
        entry.status.error_message = status.message
    return reply


def metadata_reply(
    manager: ModelManager,
    name: str,
    version: int | None = None,
    label: str | None = None,
    fields: tuple[str, ...] = (_FIELD,),
) -> GetModelMetadataResponse:
    """Returns the signatures of a version."""
    if not name:
        raise invalid_argument("Missing ModelSpec")
    if not fields:
        raise invalid_argument(
            "GetModelMetadataRequest must specify at least one metadata_field"
        )
    for field in fields:
        if field != _FIELD:
            raise invalid_argument(f"Metadata field {field} is not supported")
    reply = GetModelMetadataResponse()
    signatures = SignatureDefMap()
    with manager.lease(name, version, label) as servable:
        reply.model_spec.name = servable.name
        reply.model_spec.version.value = servable.version
        for key, signature in servable.signatures.items():
            signatures.signature_def[key].CopyFrom(signature)
    reply.metadata[_FIELD].Pack(signatures)
    return reply


def message_json(message: Any) -> bytes:
    """Returns a message as JSON, with its field names and all defaults."""
    return orjson.dumps(_as_dict(message))


def metadata_json(reply: GetModelMetadataResponse) -> bytes:
    """Returns a metadata reply as TensorFlow Serving's REST answer."""
    signatures = SignatureDefMap()
    reply.metadata[_FIELD].Unpack(signatures)
    return orjson.dumps(
        {
            "model_spec": _as_dict(reply.model_spec),
            "metadata": {_FIELD: _as_dict(signatures)},
        }
    )


def _as_dict(message: Any) -> dict[str, Any]:
    options: dict[str, Any] = {_DEFAULTS_FLAG: True}
    return json_format.MessageToDict(
        message, preserving_proto_field_name=True, **options
    )
