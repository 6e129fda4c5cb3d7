"""Reads TensorFlow Serving's configuration files, which are text protobufs."""

from __future__ import annotations

import dataclasses
import os
from typing import Any

from serving.model_server.config import ServerConfig
from serving.model_server.versions import ModelSettings, VersionPolicy
from serving.startup import StartupError, read_text_proto
from serving.wire import messages

DEFAULT_METRICS_PATH = "/monitoring/prometheus/metrics"


@dataclasses.dataclass(frozen=True)
class Monitoring:
    """Where metrics are published."""

    enabled: bool = True
    path: str = DEFAULT_METRICS_PATH


def model_settings(config: ServerConfig) -> list[ModelSettings]:
    """Returns the models of the config file, or the one of the flags."""
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

    Paths in it may be relative to its folder, so that both can be moved;
    TensorFlow Serving requires absolute paths.
    """
    # Imported here, since the other files do not need the package.
    from tensorflow_serving.config import model_server_config_pb2

    proto = read_text_proto(path, model_server_config_pb2.ModelServerConfig())
    folder = os.path.dirname(os.path.abspath(path))
    for model in proto.model_config_list.config:
        if model.base_path:
            model.base_path = os.path.normpath(
                os.path.join(folder, model.base_path)
            )
    return models_from_proto(proto, path)


def models_from_proto(proto: Any, origin: str) -> list[ModelSettings]:
    """Reads the models from a `ModelServerConfig` message."""
    if proto.WhichOneof("config") != "model_config_list":
        raise StartupError(f"{origin}: expected a model_config_list")
    models: dict[str, ModelSettings] = {}
    for model in proto.model_config_list.config:
        name, path = model.name, model.base_path
        for wrong, text in (
            (not name, "a model has no name"),
            (name in models, f"model {name!r} is configured twice"),
            (not path, f"model {name!r} has no base_path"),
            (
                not os.path.isabs(path),
                f"Expected model {name} to have an absolute path or URI; got "
                f"base_path()={path}",
            ),
            (
                model.model_platform not in ("", "tensorflow"),
                f"model {name!r} has model_platform "
                f"{model.model_platform!r}, expected 'tensorflow'",
            ),
        ):
            if wrong:
                raise StartupError(f"{origin}: {text}")
        models[name] = ModelSettings(
            name, path, _policy(model, origin), dict(model.version_labels)
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
    """Reads a `MonitoringConfig`; without a file, metrics are enabled."""
    if not path:
        return Monitoring()
    proto = read_text_proto(path, messages.MonitoringConfig())
    settings = proto.prometheus_config
    where = settings.path or DEFAULT_METRICS_PATH
    if not where.startswith("/"):
        raise StartupError(
            f"{path}: prometheus_config.path must start with '/'. "
            f"Received: {where!r}"
        )
    return Monitoring(enabled=settings.enable, path=where)
