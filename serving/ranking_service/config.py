"""Settings of the ranking service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pydantic

from serving.addresses import bare_host, split_address
from serving.client import Tls
from serving.stores import check_url

DNS = "dns:"
"""Beginning of a target that stands for all addresses of a name."""

MAX_REQUEST_BYTES = 4 * 1024 * 1024
"""Maximum size of a request; larger ones are rejected."""


class StageBudgets(pydantic.BaseModel):
    """Time limits of stages in milliseconds; 0 disables a stage.

    Attributes:
        store_read_newest: reading the behaviors for retrieval.
        matching: retrieving candidates, including that read.
        prefetch: waiting, after retrieval, until the user's history is in the
            user cache.
        rank_cached: ranking with the user cache.
        rank_full: ranking with the whole history.
        rank_shortened: ranking with the newest behaviors. Earlier stages
            reserve this time for it.
        rank_no_history: ranking without a history. All other stages reserve
            this time for it; it may use all the time that is left.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    store_read_newest: float = pydantic.Field(default=100.0, ge=0)
    matching: float = pydantic.Field(default=1_000.0, ge=0)
    prefetch: float = pydantic.Field(default=1_000.0, ge=0)
    rank_cached: float = pydantic.Field(default=1_000.0, ge=0)
    rank_full: float = pydantic.Field(default=1_000.0, ge=0)
    rank_shortened: float = pydantic.Field(default=50.0, ge=0)
    rank_no_history: float = pydantic.Field(default=50.0, gt=0)


class ServiceConfig(pydantic.BaseModel):
    """Addresses of the service's parts, and its limits.

    Attributes:
        store: URL of the behavior store. If empty, only cached histories are
            used.
        targets: model servers, `host:port` of gRPC, or `dns:host:port` for
            one at each address of a name. All calls of a user go to
            the same server, so that prefetch and ranking use the same cache.
        target_tls: encryption of calls to them, an object with any of
            `ca_file`, `certificate_file`, `key_file` and `server_name`, as
            `serving.client.Tls`; None is plain text.
        calls_per_target: concurrent calls to a model server; others wait
            within their deadline. `grpc_max_threads` tells how many threads
            a TensorFlow Serving needs for them.
        model: name of the ranking model.
        model_base_path: folder of that model's versions, if this machine has
            it: the declaration in their manifests is used, and compared with
            the store's. If empty, the store's declaration is used, and compared
            with the inputs that the model server declares.
        item_names: Parquet file with `item_id` and `name`, as the pipeline
            writes it if item keys are texts: answers give the texts of
            retrieved items. If empty, they give decimal numbers.
        label: label by which answers are sorted; empty is the first label.
        matching_model: name of the retrieval model; empty disables retrieval.
        host: interface to listen on.
        port: gRPC port; 0 chooses a free one, -1 disables gRPC.
        rest_port: REST port; 0 chooses a free one, -1 disables REST.
        ssl_config_file: text protobuf `SSLConfig`, as of the model server, to
            encrypt gRPC and REST.
        port_file: JSON file to write once the ports are open.
        deadline_ms: deadline of requests without one.
        max_deadline_ms: maximum deadline; longer ones are reduced to it.
        margin_ms: part of each deadline reserved for writing the answer.
        num_candidates: items to retrieve if a request does not say.
        max_candidates: maximum number of candidates of a request.
        history_limit: number of newest behaviors to read.
        shortened_length: number of newest behaviors in a shortened history.
        matching_length: number of newest behaviors for retrieval: the
            pipeline's `matching.max_behaviors`, with which its recall is
            measured.
        max_concurrent: number of requests that are answered concurrently.
        max_queue: number of waiting requests; further ones are rejected.
        max_queue_ms: maximum time in the queue.
        max_background: number of prefetches that may continue after their
            request was answered; further ones are canceled.
        prefetch_timeout_ms: maximum time of such a prefetch.
        store_threads: concurrent reads of the store; as many again may wait.
        store_timeout_ms: time limit of the store.
        stage_budget_ms: time limits of the stages, see `StageBudgets`.
        poll_seconds: interval of health checks of model servers and the store.
            Popular items and cache statistics are updated at most every five
            seconds.
        ready_without_store: stay ready if the store does not answer; rankings
            then have no histories.
        unranked: response of gRPC and REST without scores: `answer`, marked as
            unranked, or `error`, which is UNAVAILABLE and 503.
        drain_seconds: time for requests in flight when the service stops.
        traces: `console`, an `http(s)://` OTLP endpoint, or empty for none.
        log_requests: whether to log one JSON line per request.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True)

    store: str = ""
    targets: tuple[str, ...] = ("127.0.0.1:8500",)
    target_tls: Tls | None = None
    calls_per_target: int = pydantic.Field(default=63, ge=1)
    model: str = "muse"
    model_base_path: str = ""
    item_names: str = ""
    label: str = ""
    matching_model: str = "matching"
    host: str = "127.0.0.1"
    port: int = pydantic.Field(default=8600, ge=-1, le=65535)
    rest_port: int = pydantic.Field(default=8601, ge=-1, le=65535)
    ssl_config_file: str = ""
    port_file: str = ""
    deadline_ms: float = pydantic.Field(default=300.0, gt=0)
    max_deadline_ms: float = pydantic.Field(default=10_000.0, gt=0)
    margin_ms: float = pydantic.Field(default=5.0, ge=0)
    num_candidates: int = pydantic.Field(default=100, ge=1)
    max_candidates: int = pydantic.Field(default=10_000, ge=1)
    history_limit: int = pydantic.Field(default=100_000, ge=1)
    shortened_length: int = pydantic.Field(default=1_000, ge=1)
    matching_length: int = pydantic.Field(default=1_000, ge=0)
    max_concurrent: int = pydantic.Field(default=32, ge=1)
    max_queue: int = pydantic.Field(default=64, ge=0)
    max_queue_ms: float = pydantic.Field(default=50.0, ge=0)
    max_background: int = pydantic.Field(default=16, ge=0)
    prefetch_timeout_ms: float = pydantic.Field(default=5_000.0, gt=0)
    store_threads: int = pydantic.Field(default=4, ge=1)
    store_timeout_ms: float = pydantic.Field(default=1_000.0, gt=0)
    stage_budget_ms: StageBudgets = StageBudgets()
    poll_seconds: float = pydantic.Field(default=0.5, gt=0)
    ready_without_store: bool = False
    unranked: Literal["answer", "error"] = "answer"
    drain_seconds: float = pydantic.Field(default=10.0, ge=0)
    traces: str = ""
    log_requests: bool = True

    @pydantic.field_validator("store")
    @classmethod
    def _check_store(cls, store: str) -> str:
        if store:
            check_url(store)
        return store

    @pydantic.field_validator("targets")
    @classmethod
    def _check_targets(cls, targets: Sequence[str]) -> Sequence[str]:
        if not targets or len(set(targets)) != len(targets):
            raise ValueError("must be at least one, all different")
        for target in targets:
            split_address(target.removeprefix(DNS))
        return targets

    @pydantic.field_validator("host")
    @classmethod
    def _bare_host(cls, host: str) -> str:
        return bare_host(host)

    @pydantic.field_validator("traces")
    @classmethod
    def _check_traces(cls, traces: str) -> str:
        if traces in ("", "console") or traces.startswith(
            ("http://", "https://")
        ):
            return traces
        raise ValueError(
            "must be 'console', an OTLP endpoint or empty. "
            f"Received: {traces!r}"
        )


def grpc_max_threads(services: int, calls_per_target: int) -> int:
    """Returns the flag that TensorFlow Serving needs for ranking services.

    A call without a free thread is rejected. One thread only polls, and two
    are for other callers, such as those that push fresh items.
    """
    return services * calls_per_target + 3
