"""``muse service``: runs the ranking service."""

from __future__ import annotations

import dataclasses
import enum
from typing import TYPE_CHECKING, Annotated

import typer

from muse_tools.cli import output
from muse_tools.cli.options import (
    LOCAL_SERVER,
    HostOption,
    MatchingModelOption,
    ModelOption,
    PortFileOption,
    PortOption,
    RestPortOption,
    SslConfigFileOption,
    StoreOption,
    TargetTls,
    check_store,
    grouped,
)

if TYPE_CHECKING:
    from serving.ranking_service import ServiceApp


class Unranked(str, enum.Enum):
    """What is sent if there are no scores: an answer without, or an error."""

    ANSWER = "answer"
    ERROR = "error"


@dataclasses.dataclass(frozen=True)
class _Settings:
    """Options with the same names as the fields of `ServiceConfig`."""

    store: StoreOption = ""
    model: ModelOption = "muse"
    matching_model: MatchingModelOption = "matching"
    model_base_path: Annotated[
        str,
        typer.Option(
            help="Folder of the ranking model's versions, if it is on this "
            "machine: its declaration is compared with that of the store."
        ),
    ] = ""
    item_names: Annotated[
        str,
        typer.Option(
            help="item_names.parquet of the pipeline, needed if item keys are "
            "texts."
        ),
    ] = ""
    label: Annotated[
        str,
        typer.Option(help="Label to sort by. [default: the first one]"),
    ] = ""
    host: HostOption = "127.0.0.1"
    port: PortOption = 8600
    rest_port: RestPortOption = 8601
    ssl_config_file: SslConfigFileOption = ""
    port_file: PortFileOption = ""
    deadline_ms: Annotated[
        float, typer.Option(help="Deadline of requests that have none.")
    ] = 300.0
    max_concurrent: Annotated[
        int, typer.Option(help="Requests answered at once.")
    ] = 32
    max_queue: Annotated[
        int, typer.Option(help="Requests that may wait; others are refused.")
    ] = 64
    calls_per_target: Annotated[
        int,
        typer.Option(
            help="Calls to a model server at once; its --grpc_max_threads "
            "is three more.",
        ),
    ] = 63
    ready_without_store: Annotated[
        bool,
        typer.Option(
            "--ready-without-store",
            help="Stay ready while the store does not answer.",
        ),
    ] = False
    traces: Annotated[
        str, typer.Option(help="'console', or an OTLP endpoint (HTTP).")
    ] = ""


@grouped
def service(
    settings: _Settings,
    tls: TargetTls,
    target: Annotated[
        list[str] | None,
        typer.Option(
            help="HOST:PORT of a model server's gRPC, or dns:HOST:PORT for "
            "all addresses of a name; several share the users. "
            f"[default: {LOCAL_SERVER}]"
        ),
    ] = None,
    unranked: Annotated[
        Unranked, typer.Option(help="What is sent when there are no scores.")
    ] = Unranked.ANSWER,
    quiet: Annotated[
        bool, typer.Option("--quiet", help="No log line per request.")
    ] = False,
) -> None:
    """Rank candidates for users within a deadline, until Ctrl-C.

    Needs a running model server (muse serve). Without --store, only histories
    in the model's cache are used. Serves gRPC (muse.serving.v1.RankingService)
    and REST (POST /v1/rank), logs JSON lines to stderr and drains on SIGTERM.

    Example: muse service --store lmdb:store --target 127.0.0.1:8500
    """
    with output.one_line_errors():
        from serving.ranking_service import ServiceConfig, run_until_signal
        from serving.ranking_service.records import log_to_stderr

        target_tls = tls.made()
        with output.wrong_usage():
            config = ServiceConfig(
                **dataclasses.asdict(settings),
                targets=tuple(target or [LOCAL_SERVER]),
                target_tls=target_tls,
                unranked=unranked.value,
                log_requests=not quiet,
            )
        check_store(settings.store)
        log_to_stderr()
        run_until_signal(config, _announce)


def _announce(app: ServiceApp) -> None:
    lines = output.ranking_lines(
        None if app.grpc_port is None else app.grpc_target,
        None if app.rest_port is None else app.rest_url,
    )
    if not app.service.ready:
        lines.append("No model server answers yet; it is looked for.")
    lines.append("Ctrl-C stops.")
    output.write_lines(lines)
