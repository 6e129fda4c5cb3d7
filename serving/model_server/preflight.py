"""What can be found wrong before TensorFlow is imported, which takes long."""

from __future__ import annotations

import socket

from serving.addresses import bare_host, join_address
from serving.model_server.config import ServerConfig
from serving.model_server.config_files import model_settings, read_monitoring
from serving.model_server.versions import check_folders
from serving.startup import StartupError, read_tls


def check(config: ServerConfig) -> None:
    """Reads every file, looks for the models, and tries the ports."""
    read_monitoring(config.monitoring_config_file)
    read_tls(config.ssl_config_file)
    check_folders(model_settings(config))
    check_port(config.host, config.port, "--port")
    check_port(config.host, config.rest_api_port, "--rest_api_port")


def check_port(host: str, port: int, option: str) -> None:
    """Listens for a moment, to see whether the port is free."""
    if port < 1:
        return
    try:
        found = socket.getaddrinfo(
            bare_host(host), port, type=socket.SOCK_STREAM
        )
        family, kind, protocol, _, address = found[0]
        with socket.socket(family, kind, protocol) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(1)  # Two sockets may bind a port.
    except OSError as error:
        raise cannot_listen(host, port, option, error) from error


def cannot_listen(
    host: str, port: int, option: str, error: OSError
) -> StartupError:
    """Makes the error of a port that cannot be had."""
    return StartupError(
        f"cannot listen on {join_address(host, port)}: {error.strerror} "
        f"(choose another {option}; 0 takes a free one)"
    )
