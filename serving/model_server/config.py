"""Typed settings of the embedded server, named as TF Serving's flags."""

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
    """What to serve and where.

    Field names are the flags of `tensorflow_model_server`; `host`,
    `port_file`, `max_concurrent_runs`, `max_request_bytes`,
    `rest_api_max_waiting` and `drain_seconds` are additions.
    Differences in meaning: port 0 takes a free port, a negative one switches
    that protocol off.

    Attributes:
        model_name: name of the one model, when no config file is given.
        model_base_path: its folder, holding numbered version folders.
        model_config_file: text protobuf `ModelServerConfig`, instead.
        model_config_file_poll_wait_seconds: re-read it this often; 0 never.
        file_system_poll_wait_seconds: look for versions this often, seconds;
            0 looks once, at start-up.
        port: gRPC port.
        rest_api_port: REST port.
        rest_api_timeout_in_ms: limit of one REST call, ms.
        rest_api_num_threads: REST calls that run at once.
        rest_api_max_waiting: further REST calls that may wait for a thread;
            more are refused.
        grpc_max_threads: gRPC calls that are admitted at once, and one: in
            TensorFlow Serving that thread polls.
        host: interface to listen on.
        port_file: JSON file to write once the ports are open.
        max_request_bytes: largest request message or body, bytes; 0 for any.
        monitoring_config_file: text protobuf `MonitoringConfig`.
        ssl_config_file: text protobuf `SSLConfig`, for gRPC.
        allow_version_labels_for_unavailable_models: let a label name a
            version that is not loaded yet.
        max_num_load_retries: further attempts at a version that fails.
        load_retry_interval_micros: pause between them, microseconds.
        enable_model_warmup: replay `assets.extra/tf_serving_warmup_requests`.
        tensorflow_intra_op_parallelism: threads in one op; 0 automatic.
        tensorflow_inter_op_parallelism: ops at once; 0 automatic.
        max_concurrent_runs: graphs that run at once; further calls wait in
            order of arrival, until their deadline; 0 for any number.
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
