"""TensorFlow Serving's configuration files, as text protobufs.

The package tensorflow-serving-api has `ModelServerConfig` only; the other
messages are written down here, in the notation of `serving.client`.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from google.protobuf import text_format

from serving.model_server.config import ServerConfig
from serving.model_server.errors import StartupError
from serving.model_server.versions import ModelSettings, VersionPolicy
from serving.tls import TlsFiles, ssl_context
from serving.wire.descriptors import build_messages

__all__ = [
    "Monitoring",
    "model_settings",
    "models_from_proto",
    "read_models",
    "read_monitoring",
    "read_tls",
]

DEFAULT_METRICS_PATH = "/monitoring/prometheus/metrics"


def _config_messages() -> dict[str, Any]:
    return build_messages(
        "tensorflow.serving",
        {
            # monitoring_config.proto
            "PrometheusConfig": {"enable": "bool 1", "path": "string 2"},
            "MonitoringConfig": {
                "prometheus_config": ".tensorflow.serving.PrometheusConfig 1"
            },
            # ssl_config.proto
            "SSLConfig": {
                "server_key": "string 1",
                "server_cert": "string 2",
                "custom_ca": "string 3",
                "client_verify": "bool 4",
            },
        },
        file_name="muse/server_config.proto",
    )


_MESSAGES = _config_messages()


@dataclasses.dataclass(frozen=True)
class Monitoring:
    """Where metrics are.

    Attributes:
        enabled: whether they are served.
        path: HTTP path.
    """

    enabled: bool = True
    path: str = DEFAULT_METRICS_PATH


def model_settings(config: ServerConfig) -> list[ModelSettings]:
    """The models to serve: from the config file, or the one of the flags.

    Raises:
        StartupError: nothing to serve, or the file is broken.
    """
    if config.model_config_file:
        return read_models(config.model_config_file)
    if not config.model_base_path:
        raise StartupError(
            "--model_base_path (a folder holding <version>/saved_model.pb) "
            "or --model_config_file is required"
        )
    return [ModelSettings(config.model_name, config.model_base_path)]


def read_models(path: str) -> list[ModelSettings]:
    """Reads a `ModelServerConfig`.

    Paths in it may be relative to its folder, so that both can be moved; to
    TensorFlow Serving they must be absolute.

    Raises:
        StartupError: unreadable, not such a protobuf, or inconsistent.
    """
    # Here, since the other files do not need the package.
    from tensorflow_serving.config import model_server_config_pb2

    proto = _parse(path, model_server_config_pb2.ModelServerConfig())
    folder = os.path.dirname(os.path.abspath(path))
    for model in proto.model_config_list.config:
        if model.base_path:
            model.base_path = os.path.normpath(
                os.path.join(folder, model.base_path)
            )
    return models_from_proto(proto, path)


def models_from_proto(proto: Any, origin: str) -> list[ModelSettings]:
    """Reads the models out of a `ModelServerConfig` message.

    Raises:
        StartupError: it names no model, or the same one twice, or a model
            without a base path, or with a relative one, or a platform other
            than TensorFlow.
    """
    if proto.WhichOneof("config") != "model_config_list":
        raise StartupError(f"{origin}: expected a model_config_list")
    models: dict[str, ModelSettings] = {}
    for model in proto.model_config_list.config:
        if not model.name:
            raise StartupError(f"{origin}: a model has no name")
        if model.name in models:
            raise StartupError(
                f"{origin}: model {model.name!r} is configured twice"
            )
        if not model.base_path:
            raise StartupError(
                f"{origin}: model {model.name!r} has no base_path"
            )
        if not os.path.isabs(model.base_path):
            raise StartupError(
                f"{origin}: Expected model {model.name} to have an absolute "
                f"path or URI; got base_path()={model.base_path}"
            )
        if model.model_platform not in ("", "tensorflow"):
            raise StartupError(
                f"{origin}: model {model.name!r} has model_platform "
                f"{model.model_platform!r}, expected 'tensorflow'"
            )
        models[model.name] = ModelSettings(
            name=model.name,
            base_path=model.base_path,
            policy=_policy(model, origin),
            labels=dict(model.version_labels),
        )
    return list(models.values())


def _policy(model: Any, origin: str) -> VersionPolicy:
    policy = model.model_version_policy
    choice = policy.WhichOneof("policy_choice")
    if choice is None:
        return VersionPolicy()
    if choice == "all":
        return VersionPolicy(kind="all")
    if choice == "latest":
        return VersionPolicy(num_latest=policy.latest.num_versions or 1)
    versions = tuple(policy.specific.versions)
    if not versions:
        raise StartupError(
            f"{origin}: model {model.name!r} has a specific version policy "
            f"without versions"
        )
    return VersionPolicy(kind="specific", versions=versions)


def read_monitoring(path: str) -> Monitoring:
    """Reads a `MonitoringConfig`; without a file, metrics are on.

    Raises:
        StartupError: unreadable, not such a protobuf, or a path without "/".
    """
    if not path:
        return Monitoring()
    proto = _parse(path, _MESSAGES["MonitoringConfig"]())
    settings = proto.prometheus_config
    where = settings.path or DEFAULT_METRICS_PATH
    if not where.startswith("/"):
        raise StartupError(
            f"{path}: prometheus_config.path must start with '/'. "
            f"Received: {where!r}"
        )
    return Monitoring(enabled=settings.enable, path=where)


def read_tls(path: str) -> TlsFiles | None:
    """Reads an `SSLConfig`.

    Raises:
        StartupError: unreadable, not such a protobuf, without key and
            certificate, or with some that cannot be used.
    """
    if not path:
        return None
    proto = _parse(path, _MESSAGES["SSLConfig"]())
    if not proto.server_key or not proto.server_cert:
        raise StartupError(f"{path}: server_key and server_cert are required")
    if proto.client_verify and not proto.custom_ca:
        raise StartupError(f"{path}: client_verify needs custom_ca")
    files = TlsFiles(
        key=proto.server_key.encode(),
        certificate=proto.server_cert.encode(),
        client_ca=proto.custom_ca.encode(),
        verify_client=proto.client_verify,
    )
    try:
        ssl_context(files)  # gRPC would only say that it cannot listen.
    except ValueError as error:
        raise StartupError(f"{path}: {error}") from error
    return files


def _parse(path: str, message: Any) -> Any:
    kind = message.DESCRIPTOR.name
    try:
        with open(os.fspath(path), encoding="utf-8") as file:
            text = file.read()
    except OSError as error:
        raise StartupError(
            f"{path}: cannot be read: {error.strerror}"
        ) from error
    except UnicodeDecodeError as error:
        raise StartupError(f"{path}: is not UTF-8 text") from error
    try:
        return text_format.Parse(text, message)
    except text_format.ParseError as error:
        raise StartupError(f"{path}: is not a {kind}: {error}") from error
