"""Options of the commands that listen on ports."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = [
    "GrpcPortOption",
    "HostOption",
    "PortFileOption",
    "RestApiPortOption",
    "RestPortOption",
    "STORE_URL",
]

STORE_URL = "lmdb:/path, redis://host:6379/0, rediss://… or unix:///path."
"""How the place of a behaviour store is written."""

HostOption = Annotated[
    str, typer.Option("--host", help="Interface to listen on.")
]
GrpcPortOption = Annotated[
    int,
    typer.Option("--port", help="gRPC port; 0 takes a free one, -1 is off."),
]
_REST = "REST port; 0 takes a free one, -1 is off."
RestPortOption = Annotated[int, typer.Option("--rest-port", help=_REST)]
# Messages of the server name its own flags, with underscores.
RestApiPortOption = Annotated[
    int, typer.Option("--rest-api-port", "--rest_api_port", help=_REST)
]
PortFileOption = Annotated[
    str,
    typer.Option(
        "--port-file", help="JSON file to write once the ports are open."
    ),
]
