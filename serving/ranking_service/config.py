"""Settings of the ranking service."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import pydantic

from serving.addresses import bare_host, split_address
from serving.client import Tls
from serving.stores import check_url

MAX_REQUEST_BYTES = 4 * 1024 * 1024
"""Of a request message or body; larger ones are refused."""


class StageBudgets(pydantic.BaseModel):
    """Milliseconds per stage, by the stage's name; 0 leaves a stage out.

    Attributes:
        store_read_newest: reading the behaviors that retrieval needs.
        matching: finding candidates, that read included.
        prefetch: waiting, once the candidates are there, for the user's
            history to be in the user cache.
        rank_cached: ranking with the user cache.
        rank_full: ranking with the whole history.
        rank_shortened: ranking with the newest behaviors. The stages before
            it leave so much time unused.
        rank_no_history: ranking without a history. All other stages leave so
            much time unused; it may take whatever is left.
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
    """Where the service finds its parts, and its limits.

    Attributes:
        store: URL of the behavior store; empty ranks without histories
            other than those already cached.
        targets: model servers, `host:port` of gRPC. A user's calls go to one
            of them, so that prefetch and ranking meet the same cache.
        target_tls: encryption of calls to them, an object with any of
            `ca_file`, `certificate_file`, `key_file` and `server_name`, as
            `serving.client.Tls`; None is plain text.
        calls_per_target: calls to a model server at once; more wait within
            their deadline. A TensorFlow Serving works on one less than its
            `--grpc_max_threads`; several services share them.
        model: name of the ranking model.
        model_base_path: folder of that model's versions, if this machine has
            it: the declaration in their manifests is that of the data, and is
            compared with the store's. Empty takes the store's, and compares
            with the inputs that the model server tells.
        item_names: Parquet file with `item_id` and `name`, as the pipeline
            writes it where keys of items are texts: answers give the texts of
            items that the service found. Empty gives decimal numbers.
        label: what answers are sorted by; empty is the first label.
        matching_model: name of the model that finds candidates; empty has
            none.
        host: interface to listen on.
        port: gRPC port; 0 takes a free one, -1 is off.
        rest_port: REST port; 0 takes a free one, -1 is off.
        ssl_config_file: text protobuf `SSLConfig`, as of the model server:
            gRPC and REST are encrypted.
        port_file: JSON file to write once the ports are open.
        deadline_ms: of requests that bring none.
        max_deadline_ms: longer ones are shortened to this.
        margin_ms: kept back from each deadline, to write the answer.
        num_candidates: taken from retrieval where a request does not say.
        max_candidates: that one request may bring or ask for.
        history_limit: newest behaviors that are read.
        shortened_length: newest behaviors of a shortened history.
        matching_length: newest behaviors that retrieval gets; the pipeline's
            `matching.max_behaviors`, which its recall is measured with.
        max_concurrent: requests being answered at once.
        max_queue: requests that wait for a place; more are refused.
        max_queue_ms: how long one may wait for it.
        max_background: prefetches that may go on after their request was
            answered; beyond that they are canceled.
        prefetch_timeout_ms: how long such a prefetch may take.
        store_threads: reads of the store at once; as many again may wait.
        store_timeout_ms: how long the store may take.
        stage_budget_ms: how long each stage may take, as `StageBudgets`.
        poll_seconds: how often model servers and the store are asked whether
            they answer; popular items and cache statistics, every five
            seconds at most.
        ready_without_store: stay ready while the store does not answer;
            rankings then go on without histories.
        unranked: what gRPC and REST send when there are no scores: `answer`,
            marked as such, or `error`, UNAVAILABLE and 503.
        drain_seconds: for requests in flight when the service stops.
        traces: `console`, an `http(s)://` OTLP endpoint, or empty for none.
        log_requests: one JSON line per request.
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
            split_address(target)
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
