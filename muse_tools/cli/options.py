"""Options that several commands share, with the same name and meaning.

Commands use them as annotations. A parameter whose type is a dataclass is a
group of options: `grouped` makes an option of each field.
"""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import functools
import inspect
import pathlib
import typing
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import typer

from muse_tools.cli import output
from serving.addresses import split_address

if TYPE_CHECKING:
    from schemas.ranking_schema import RankingSchema
    from serving.client import MuseClient, Tls

LOCAL_SERVER = "127.0.0.1:8500"
STORE_URL = (
    "lmdb:/path, redis://host:6379/0, rediss://…, unix:///path or "
    "redis+cluster://host:6379,host:6379."
)


class Split(str, enum.Enum):
    """Split of a data set."""

    TEST = "test"
    TRAIN = "train"


class Transport(str, enum.Enum):
    """Protocol of calls to a model server."""

    GRPC = "grpc"
    REST = "rest"


def positive(value: float) -> float:
    """Checks the seconds of a timeout; a callback of typer."""
    with output.wrong_usage():
        if not 0 < value < float("inf"):
            raise ValueError(f"must be above 0. Received: {value}")
    return value


def address(value: str | None) -> str | None:
    """Checks host and port of a model server; a callback of typer."""
    with output.wrong_usage():
        if value is not None:
            split_address(value)
    return value


def _overrides(values: list[str] | None) -> list[str]:
    for value in values or ():
        with output.wrong_usage():
            if not value.partition("=")[0] or "=" not in value:
                raise ValueError(
                    "an override has the form section.key=value. "
                    f"Received: {value!r}"
                )
    return values or []


def parse_ids(option: str, text: str) -> list[int]:
    """Parses at least one id; ids are separated by commas or spaces.

    Raises:
        BadParameter: if the text is anything else.
    """
    with output.wrong_usage(option):
        try:
            found = [int(part) for part in text.replace(",", " ").split()]
        except ValueError:
            found = []
        if not found or not all(-(2**63) <= one < 2**63 for one in found):
            raise ValueError(
                "expected ids like 11,12,13, of 64 bits each. "
                f"Received: {text!r}"
            )
    return found


def check_store(url: str) -> None:
    """Checks that a behavior store exists, unless `url` is empty.

    A Redis server may be down. A store that does not exist is an error because
    the services do not create one.

    Raises:
        BadParameter: if the URL is wrong.
        StoreError: if the store does not exist or cannot be opened.
    """
    if not url:
        return
    from serving.stores import StoreUnavailableError, check_url, open_store

    with output.wrong_usage("--store"):
        check_url(url)
    with contextlib.suppress(StoreUnavailableError):
        open_store(url).close()


ConfigOption = Annotated[
    pathlib.Path,
    typer.Option(
        "--config",
        "-c",
        help="YAML file; see configs/.",
        exists=True,
        dir_okay=False,
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Override, e.g. --set trainer.epochs=2. Repeatable.",
        callback=_overrides,
    ),
]
JsonOption = Annotated[
    bool, typer.Option("--json", help="Print the result as JSON.")
]
OutOption = Annotated[
    pathlib.Path,
    typer.Option(
        "--out", help="Output folder.", show_default=False, file_okay=False
    ),
]
DataOption = Annotated[
    pathlib.Path,
    typer.Option(
        "--data",
        help="Raw data set: the folder that holds the tables, or its raw/.",
    ),
]
SplitOption = Annotated[
    Split, typer.Option("--split", help="Which users of the data set.")
]
ModelPathOption = Annotated[
    pathlib.Path,
    typer.Option(
        "--model-base-path", help="Folder that holds <version>/saved_model.pb."
    ),
]
ModelOption = Annotated[
    str, typer.Option("--model", help="Name of the ranking model.")
]
MatchingModelOption = Annotated[
    str,
    typer.Option(
        "--matching-model",
        help="Name of the model that finds candidates; '' for none.",
    ),
]
StoreOption = Annotated[
    str, typer.Option("--store", help=f"Behavior store: {STORE_URL}")
]
HostOption = Annotated[
    str, typer.Option("--host", help="Interface to listen on.")
]


def _port(name: str, what: str) -> Any:
    return typer.Option(
        name,
        help=f"{what} port; 0 takes a free one, -1 is off.",
        min=-1,
        max=65535,
    )


PortOption = Annotated[int, _port("--port", "gRPC")]
RestPortOption = Annotated[int, _port("--rest-port", "REST")]
RankingPortOption = Annotated[
    int, _port("--ranking-port", "Ranking service's gRPC")
]
RankingRestPortOption = Annotated[
    int, _port("--ranking-rest-port", "Ranking service's REST")
]
PortFileOption = Annotated[
    str,
    typer.Option(
        "--port-file", help="JSON file to write once the ports are open."
    ),
]
SslConfigFileOption = Annotated[
    str,
    typer.Option(
        "--ssl-config-file",
        help="TF Serving's ssl.config: key, certificate, CA of the clients. "
        "A model server encrypts gRPC with it, a ranking service also REST.",
    ),
]
TargetOption = Annotated[
    str,
    typer.Option(
        "--target",
        help="HOST:PORT of a model server's gRPC.",
        callback=address,
    ),
]


@dataclasses.dataclass(frozen=True)
class TargetTls:
    """Options of encrypted calls to model servers; plain text by default."""

    target_ca_file: Annotated[
        str,
        typer.Option(
            help="PEM file of the CA of model servers; encrypts the calls."
        ),
    ] = ""
    target_certificate_file: Annotated[
        str, typer.Option(help="PEM file with this client's certificate.")
    ] = ""
    target_key_file: Annotated[
        str, typer.Option(help="PEM file with its key.")
    ] = ""
    target_server_name: Annotated[
        str, typer.Option(help="Name in the model servers' certificates.")
    ] = ""

    def made(self) -> Tls | None:
        """Returns the TLS settings of a client; None for plain text."""
        from serving.client import Tls

        fields = dataclasses.fields(TargetTls)
        values = [getattr(self, field.name) for field in fields]
        if not any(values):
            return None
        with output.wrong_usage("--target-certificate-file"):
            return Tls(*(value or None for value in values))


@dataclasses.dataclass(frozen=True)
class Connection(TargetTls):
    """Options of the commands that call a running model server."""

    target: Annotated[
        str | None,
        typer.Option(
            help="HOST:PORT of the server. [default: 127.0.0.1:8500, for rest "
            "127.0.0.1:8501]"
        ),
    ] = None
    transport: Annotated[Transport, typer.Option(help="Protocol.")] = (
        Transport.GRPC
    )
    model: ModelOption = "muse"
    timeout: Annotated[
        float,
        typer.Option(help="Seconds to wait for an answer.", callback=positive),
    ] = 30.0

    @property
    def address(self) -> str:
        """The target; by default the usual port on this machine."""
        port = "8500" if self.transport is Transport.GRPC else "8501"
        return f"127.0.0.1:{port}" if self.target is None else self.target

    @contextlib.contextmanager
    def opened(
        self, schema: RankingSchema | None = None
    ) -> Iterator[MuseClient]:
        """Yields a client; a call that fails raises a one-line RuntimeError."""
        from serving import client

        tls = self.made()
        with output.wrong_usage():
            made = client.MuseClient(
                self.address,
                self.transport.value,
                self.model,
                timeouts=client.Timeouts(
                    connect=min(5.0, self.timeout),
                    call=self.timeout,
                    total=self.timeout,
                ),
                retry=client.Retry(attempts=2),
                tls=tls,
                schema=schema,
            )
        try:
            with made as opened:
                yield opened
        except client.UnavailableError as error:
            advice = "" if tls else "; an encrypted one needs --target-ca-file"
            if tls is not None and tls.certificate_file is None:
                advice = (
                    "; one that knows its clients needs "
                    "--target-certificate-file"
                )
            raise RuntimeError(
                f"no server answers at {self.address} ({error.message}). Start "
                f"one with: muse serve --model-base-path DIR{advice}"
            ) from error
        except client.MuseClientError as error:
            raise RuntimeError(str(error)) from error


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Turns the fields of parameters that are dataclasses into options.

    These options come after the command's own options.
    """
    groups: dict[str, type] = {}
    own, more = [], []
    hints = inspect.get_annotations(command, eval_str=True)
    for parameter in inspect.signature(command).parameters.values():
        kind = hints[parameter.name]
        if dataclasses.is_dataclass(kind):
            groups[parameter.name] = kind  # type: ignore[assignment]
            of_fields = typing.get_type_hints(kind, include_extras=True)
            more += [
                _option_of(field, of_fields[field.name])
                for field in dataclasses.fields(kind)
            ]
        else:
            own.append(
                parameter.replace(
                    kind=inspect.Parameter.KEYWORD_ONLY, annotation=kind
                )
            )
    parameters = [*own, *more]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        for name, kind in groups.items():
            names = [field.name for field in dataclasses.fields(kind)]
            values = {one: given.pop(one) for one in names}
            with output.wrong_usage():
                given[name] = kind(**values)
        command(**given)

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in parameters}
    return run


def _option_of(field: dataclasses.Field[Any], kind: Any) -> inspect.Parameter:
    """Returns the option of a field, from its annotation or its metadata."""
    default = field.default
    if default is dataclasses.MISSING:
        default = inspect.Parameter.empty
    if "help" in field.metadata:
        text = field.metadata["help"]
        if isinstance(default, tuple):
            default = "-".join(map(str, default))
            kind = Annotated[str, typer.Option(help=text, callback=_range)]
        else:
            kind = Annotated[kind, typer.Option(help=text)]
    return inspect.Parameter(
        field.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=kind,
    )


def _range(text: str) -> tuple[int, int]:
    first, dash, last = text.partition("-")
    if not (first.strip().isdigit() and (not dash or last.strip().isdigit())):
        raise typer.BadParameter(f"expected 42-49 or 42. Received: {text}")
    return int(first), int(last if dash else first)
