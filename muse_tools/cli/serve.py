"""``muse serve``: the embedded model server."""

from __future__ import annotations

import contextlib
import os
import pathlib
import sys
import tempfile
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from muse_tools.cli import output
from muse_tools.cli.options import (
    HostOption,
    ModelOption,
    PortFileOption,
    PortOption,
    RankingPortOption,
    RankingRestPortOption,
    RestPortOption,
    SslConfigFileOption,
    StoreOption,
    TargetTls,
    check_store,
    grouped,
)

if TYPE_CHECKING:
    from serving.model_server.app import ServerApp

_INLINE_BODY = 600


@grouped
def serve(
    tls: TargetTls,
    model_base_path: Annotated[
        pathlib.Path | None,
        typer.Option(help="Folder that holds <version>/saved_model.pb."),
    ] = None,
    model: ModelOption = "muse",
    model_config_file: Annotated[
        pathlib.Path | None,
        typer.Option(help="TF Serving's models.config, instead of one folder."),
    ] = None,
    monitoring_config_file: Annotated[
        pathlib.Path | None,
        typer.Option(help="TF Serving's monitoring.config."),
    ] = None,
    host: HostOption = "127.0.0.1",
    port: PortOption = 8500,
    rest_port: RestPortOption = 8501,
    ssl_config_file: SslConfigFileOption = "",
    port_file: PortFileOption = "",
    poll: Annotated[
        float,
        typer.Option(
            help="Seconds between checks for new versions; 0: never.", min=0
        ),
    ] = 1.0,
    with_ranking: Annotated[
        bool,
        typer.Option(
            "--with-ranking",
            help="Also run the ranking service, in a process of its own.",
        ),
    ] = False,
    store: StoreOption = "",
    ranking_port: RankingPortOption = 8600,
    ranking_rest_port: RankingRestPortOption = 8601,
) -> None:
    """Serve a model by gRPC and REST until Ctrl-C.

    Uses TensorFlow Serving's protocol, loads new versions and drains on
    SIGTERM. python -m serving.model_server --help lists all supported flags of
    tensorflow_model_server. The server answers once TensorFlow and the model
    are loaded.

    With --ssl-config-file, the ranking service (--with-ranking) encrypts its
    ports with the same file, and calls this server with the options
    --target-ca-file and the like.

    Example: muse serve --model-base-path demo_output/serving/muse
    """
    if (model_base_path is None) == (model_config_file is None):
        raise typer.BadParameter(
            "exactly one of --model-base-path and --model-config-file is needed"
        )
    with output.one_line_errors():
        if with_ranking and port < 0:
            raise typer.BadParameter(
                "--with-ranking needs gRPC: choose a --port"
            )
        if store and not with_ranking:
            raise typer.BadParameter("--store belongs to --with-ranking")
        target_tls = tls.made()
        if target_tls and not (with_ranking and ssl_config_file):
            raise typer.BadParameter(
                "--target-ca-file and the like belong to --with-ranking and "
                "--ssl-config-file"
            )
        if with_ranking and ssl_config_file and not tls.target_ca_file:
            raise typer.BadParameter(
                "--with-ranking and --ssl-config-file need --target-ca-file: "
                "the ranking service must know this server"
            )
        check_store(store)
        from serving.model_server import ServerConfig

        config = ServerConfig(
            model_name=model,
            model_base_path=str(model_base_path or ""),
            model_config_file=str(model_config_file or ""),
            monitoring_config_file=str(monitoring_config_file or ""),
            host=host,
            port=port,
            rest_api_port=rest_port,
            ssl_config_file=ssl_config_file,
            port_file=port_file,
            file_system_poll_wait_seconds=poll,
        )
        from serving.model_server.preflight import check
        from serving.startup import check_port

        with _named_options():
            check(config)
            if with_ranking:
                check_port(host, ranking_port, "--ranking-port")
                check_port(host, ranking_rest_port, "--ranking-rest-port")
        sys.stderr.write("Loading TensorFlow and the model …\n")
        started = time.monotonic()
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        from muse_tools.cli.ranking_beside import RankingBeside
        from serving.model_server.app import serve_until_signal

        ranking: RankingBeside | None = None
        with tempfile.TemporaryDirectory(prefix="muse-serve-") as folder:

            def on_ready(app: ServerApp) -> None:
                nonlocal ranking
                _announce(app, folder, started)
                if with_ranking:
                    ranking = RankingBeside(
                        app,
                        folder,
                        model,
                        target_tls,
                        store=store,
                        host=host,
                        port=ranking_port,
                        rest_port=ranking_rest_port,
                        ssl_config_file=ssl_config_file,
                    )

            async def before_stop() -> None:
                if ranking is not None:
                    await ranking.drain()

            try:
                with _named_options():
                    serve_until_signal(config, on_ready, before_stop)
            finally:
                if ranking is not None:
                    ranking.stop()
        if ranking is not None and ranking.failed:
            raise RuntimeError("the ranking service ended by itself; see above")


@contextlib.contextmanager
def _named_options() -> Iterator[None]:
    """Makes errors use the option names of this command."""
    from serving.model_server import StartupError

    try:
        yield
    except StartupError as error:
        text = str(error).replace("--rest_api_port", "--rest-port")
        raise RuntimeError(text) from error


def _announce(app: ServerApp, folder: str, started: float) -> None:
    seconds = time.monotonic() - started
    lines = [f"Serving {', '.join(app.model_names)} ({seconds:.0f} s)"]
    if app.grpc_port is not None:
        how = " (TLS)" if app.config.ssl_config_file else ""
        lines.append(f"  gRPC     {app.grpc_target}{how}")
    if app.rest_port is not None:
        lines += [
            f"  REST     {app.rest_url}/v1/models/{name}"
            for name in app.model_names
        ]
        if app.metrics_path:
            lines.append(f"  metrics  {app.rest_url}{app.metrics_path}")
        lines += _sample_lines(app, folder)
    output.write_lines([*lines, "Ctrl-C stops."])


def _sample_lines(app: ServerApp, folder: str) -> list[str]:
    from serving.model_server.sample_request import curl_line, sample_request

    lines = []
    for name in app.model_names:
        sample = sample_request(app.manager, name)
        if sample is None:
            continue
        file = None
        if len(sample.body) > _INLINE_BODY:
            path = pathlib.Path(folder) / f"{name}_{sample.signature}.json"
            path.write_text(sample.body, encoding="utf-8")
            file = str(path)
        lines += [
            f"Try it (signature {sample.signature}):",
            f"  {curl_line(app.rest_url, name, sample.body, file)}",
        ]
    return lines
