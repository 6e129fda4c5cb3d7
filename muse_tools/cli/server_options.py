"""Options of the commands that ask a running model server."""

from __future__ import annotations

import contextlib
import enum
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from muse_tools.cli import output
from muse_tools.cli.option_values import positive

if TYPE_CHECKING:
    from serving.client import MuseClient, Tls

__all__ = [
    "ModelOption",
    "TargetOption",
    "TimeoutOption",
    "Transport",
    "TransportOption",
    "address_of",
    "opened_client",
]


class Transport(str, enum.Enum):
    """How to reach the server."""

    GRPC = "grpc"
    REST = "rest"


TargetOption = Annotated[
    str | None,
    typer.Option(
        "--target",
        help="host:port of the server. "
        "[default: 127.0.0.1:8500, for rest 127.0.0.1:8501]",
    ),
]
TransportOption = Annotated[
    Transport, typer.Option("--transport", help="Protocol.")
]
ModelOption = Annotated[str, typer.Option("--model", help="Model name.")]
TimeoutOption = Annotated[
    float,
    typer.Option(
        "--timeout", help="Seconds to wait for an answer.", callback=positive
    ),
]


def address_of(target: str | None, transport: Transport) -> str:
    """The target, or where a server on this machine listens."""
    port = "8500" if transport is Transport.GRPC else "8501"
    return f"127.0.0.1:{port}" if target is None else target


@contextlib.contextmanager
def opened_client(
    address: str,
    transport: Transport,
    model: str,
    timeout: float,
    tls: Tls | None = None,
) -> Iterator[MuseClient]:
    """A client while the context is open.

    Args:
        address: `host:port`.
        transport: the protocol.
        model: name of the model.
        timeout: seconds for each call.
        tls: encryption; None is plain text.

    Raises:
        BadParameter: the address or another setting is none.
        RuntimeError: a call failed, in one line; with advice where no server
            answers.
    """
    from serving import client

    with output.wrong_usage():
        made = client.MuseClient(
            address,
            transport.value,
            model,
            timeouts=client.Timeouts(
                connect=min(5.0, timeout), call=timeout, total=timeout
            ),
            retry=client.Retry(attempts=2),
            tls=tls,
        )
    try:
        with made as opened:
            yield opened
    except client.UnavailableError as error:
        advice = "" if tls else "; an encrypted one needs --target-ca-file"
        if tls is not None and tls.certificate_file is None:
            advice = (
                "; one that knows its clients needs --target-certificate-file"
            )
        raise RuntimeError(
            f"no server answers at {address} ({error.message}). Start "
            f"one with: muse serve --model-base-path DIR{advice}"
        ) from error
    except client.MuseClientError as error:
        raise RuntimeError(str(error)) from error
