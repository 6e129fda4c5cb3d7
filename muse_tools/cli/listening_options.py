"""Options of the commands that listen on ports."""

from __future__ import annotations

from typing import Annotated

import typer

from muse_tools.cli import output

__all__ = [
    "GrpcPortOption",
    "HostOption",
    "PortFileOption",
    "RestApiPortOption",
    "RestPortOption",
    "STORE_URL",
    "check_store",
]

STORE_URL = "lmdb:/path, redis://host:6379/0, rediss://… or unix:///path."
"""How the place of a behaviour store is written."""

HostOption = Annotated[
    str, typer.Option("--host", help="Interface to listen on.")
]
GrpcPortOption = Annotated[
    int,
    typer.Option(
        "--port",
        help="gRPC port; 0 takes a free one, -1 is off.",
        min=-1,
        max=65535,
    ),
]
_REST = "REST port; 0 takes a free one, -1 is off."
RestPortOption = Annotated[
    int, typer.Option("--rest-port", help=_REST, min=-1, max=65535)
]
# Messages of the server name its own flags, with underscores.
RestApiPortOption = Annotated[
    int,
    typer.Option(
        "--rest-api-port", "--rest_api_port", help=_REST, min=-1, max=65535
    ),
]
PortFileOption = Annotated[
    str,
    typer.Option(
        "--port-file", help="JSON file to write once the ports are open."
    ),
]


def check_store(url: str) -> None:
    """Looks for a behaviour store; a Redis server may be down.

    Args:
        url: of `--store`; may be empty.

    Raises:
        BadParameter: it is no URL of a store.
        RuntimeError: there is no store; a service makes none.
    """
    if not url:
        return
    from serving.stores import check_url, open_store

    with output.wrong_usage("--store"):
        check_url(url)
    open_store(url, create=False).close()
