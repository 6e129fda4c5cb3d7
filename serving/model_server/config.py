"""Settings of the embedded server, named like TensorFlow Serving's flags."""

from __future__ import annotations

import dataclasses
import os

_NOT_NEGATIVE = (
    "rest_api_timeout_in_ms",
    "max_num_load_retries",
    "load_retry_interval_micros",
    "max_concurrent_runs",
    "max_request_bytes",
    "rest_api_max_waiting",
    "drain_seconds",
)


def _default_threads() -> int:
    return 4 * (os.cpu_count() or 1)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerConfig:
    """Models to serve, ports and limits.

    Field names are the flags of `tensorflow_model_server`; `host`,
    `port_file`, `max_concurrent_runs`, `max_request_bytes`,
    `rest_api_max_waiting` and `drain_seconds` are additional. Unlike there,
    port 0 chooses a free port and a negative port disables the protocol.

    Attributes:
        model_name: name of the model, if there is no config file.
        model_base_path: folder of this model, with numbered version folders.
        model_config_file: text protobuf `ModelServerConfig`, instead of these.
        model_config_file_poll_wait_seconds: seconds between reads of this
            file; 0 reads it once.
        file_system_poll_wait_seconds: seconds between searches for new
            versions; 0 searches once, at startup.
        port: gRPC port.
        rest_api_port: REST port.
        rest_api_timeout_in_ms: time limit of a REST call, ms.
        rest_api_num_threads: number of concurrent REST calls.
        rest_api_max_waiting: number of REST calls that may wait for a thread;
            further ones are rejected.
        grpc_max_threads: number of concurrent gRPC calls plus one: TensorFlow
            Serving polls in one thread.
        host: interface to listen on.
        port_file: JSON file to write once the ports are open.
        max_request_bytes: largest request message or body, bytes; 0 = no limit.
        monitoring_config_file: text protobuf `MonitoringConfig`.
        ssl_config_file: text protobuf `SSLConfig`, for gRPC.
        allow_version_labels_for_unavailable_models: allow labels for versions
            that are not loaded yet.
        max_num_load_retries: further attempts to load a version.
        load_retry_interval_micros: pause between them, microseconds.
        enable_model_warmup: replay `assets.extra/tf_serving_warmup_requests`.
        tensorflow_intra_op_parallelism: threads per op; 0 automatic.
        tensorflow_inter_op_parallelism: concurrent ops; 0 automatic.
        max_concurrent_runs: concurrent graph runs; further calls wait in order
            of arrival until their deadline; 0 = no limit.
        drain_seconds: how long SIGTERM waits for calls in flight.
    """

    model_name: str = "muse"
    model_base_path: str = ""
    model_config_file: str = ""
    model_config_file_poll_wait_seconds: float = 0.0
    file_system_poll_wait_seconds: float = 1.0
    port: int = 8500
    rest_api_port: int = 8501
    rest_api_timeout_in_ms: int = 30_000
    rest_api_num_threads: int = dataclasses.field(
        default_factory=_default_threads
    )
    rest_api_max_waiting: int = 1024
    grpc_max_threads: int = dataclasses.field(default_factory=_default_threads)
    host: str = "127.0.0.1"
    port_file: str = ""
    max_request_bytes: int = 256 * 2**20
    monitoring_config_file: str = ""
    ssl_config_file: str = ""
    allow_version_labels_for_unavailable_models: bool = False
    max_num_load_retries: int = 0
    load_retry_interval_micros: int = 60_000_000
    enable_model_warmup: bool = True
    tensorflow_intra_op_parallelism: int = 0
    tensorflow_inter_op_parallelism: int = 0
    max_concurrent_runs: int = 0
    drain_seconds: float = 30.0

    def __post_init__(self) -> None:
        least = {"rest_api_num_threads": 1, "grpc_max_threads": 2}
        least |= dict.fromkeys(_NOT_NEGATIVE, 0)
        for name, number in least.items():
            if getattr(self, name) < number:
                raise ValueError(
                    f"`{name}` must be at least {number}. "
                    f"Received: {getattr(self, name)}"
                )
        for name in ("port", "rest_api_port"):
            if getattr(self, name) > 65535:
                raise ValueError(
                    f"`{name}` must be at most 65535. "
                    f"Received: {getattr(self, name)}"
                )
