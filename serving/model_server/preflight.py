"""Checks before TensorFlow is imported, since the import takes long."""

from __future__ import annotations

from serving.model_server.config import ServerConfig
from serving.model_server.config_files import model_settings, read_monitoring
from serving.model_server.versions import check_folders
from serving.startup import check_port, read_tls


def check(config: ServerConfig) -> None:
    """Reads all configuration files, finds the models, and tests the ports."""
    read_monitoring(config.monitoring_config_file)
    read_tls(config.ssl_config_file)
    check_folders(model_settings(config))
    check_port(config.host, config.port, "--port")
    check_port(config.host, config.rest_api_port, "--rest_api_port")
