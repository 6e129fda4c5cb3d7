"""Timeouts, retries and TLS of a client."""

from __future__ import annotations

import dataclasses
import pathlib
import ssl

from serving.client.errors import RequestError


@dataclasses.dataclass(frozen=True)
class Timeouts:
    """Independent limits in seconds.

    Attributes:
        connect: for connecting to the server.
        call: for one attempt, from sending to the whole answer. With gRPC, the
            server receives this deadline and stops working when it passes.
        total: for all attempts and the pauses between them.
    """

    connect: float = 5.0
    call: float = 10.0
    total: float = 30.0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if not getattr(self, field.name) > 0:
                raise ValueError(
                    f"`{field.name}` must be above 0 seconds. "
                    f"Received: {getattr(self, field.name)}"
                )


@dataclasses.dataclass(frozen=True)
class Retry:
    """Further attempts when the server is UNAVAILABLE, and only then.

    Calls to a model server without a free gRPC thread do not count as attempts:
    they are repeated until the time is over.

    The pause before attempt n is a random share (between a half and all) of
    `first * factor**(n - 1)`, at most `longest`.

    Attributes:
        attempts: total number of attempts; 1 disables retries.
        first: first pause, seconds.
        factor: growth of the pauses.
        longest: longest pause, seconds.
    """

    attempts: int = 4
    first: float = 0.1
    factor: float = 2.0
    longest: float = 2.0

    def __post_init__(self) -> None:
        if self.attempts < 1:
            raise ValueError(
                f"`attempts` must be at least 1. Received: {self.attempts}"
            )
        if self.first < 0 or self.longest < 0 or self.factor < 1:
            raise ValueError(
                "`first` and `longest` must not be negative and `factor` "
                f"must be at least 1. Received: {self}"
            )

    def pause(self, attempt: int, share: float) -> float:
        """Returns the pause in seconds after an attempt, counted from 1.

        `share` is a random number in [0, 1).
        """
        longest = min(self.longest, self.first * self.factor ** (attempt - 1))
        return longest * (0.5 + share / 2)


@dataclasses.dataclass(frozen=True)
class Tls:
    """TLS settings of a client, for one-way or mutual TLS.

    Attributes:
        ca_file: PEM certificates of the authorities to trust; None trusts
            those of the system.
        certificate_file: PEM certificate of this client, for mutual TLS.
        key_file: PEM key of this certificate.
        server_name: expected name in the server's certificate, if it differs
            from the host.
    """

    ca_file: str | pathlib.Path | None = None
    certificate_file: str | pathlib.Path | None = None
    key_file: str | pathlib.Path | None = dataclasses.field(
        default=None, repr=False
    )
    server_name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate_file is None) != (self.key_file is None):
            raise ValueError(
                "`certificate_file` and `key_file` go together. "
                "Received: only one of them"
            )


def ssl_context(tls: Tls) -> ssl.SSLContext:
    """Loads the TLS files of a client; gRPC reads the same ones.

    Raises `RequestError` if they hold no certificate or key, or if these do not
    match, and `OSError` if a file cannot be read.
    """
    for path in (tls.ca_file, tls.certificate_file, tls.key_file):
        if path is not None:
            pathlib.Path(path).read_bytes()  # Its error names the file.
    try:
        context = ssl.create_default_context(
            cafile=None if tls.ca_file is None else str(tls.ca_file)
        )
    except ssl.SSLError as error:
        raise RequestError(
            "ca_file", "hold certificates in PEM", str(tls.ca_file)
        ) from error
    if tls.certificate_file is not None and tls.key_file is not None:
        try:
            # Without a password, OpenSSL would prompt for one.
            context.load_cert_chain(
                str(tls.certificate_file), str(tls.key_file), password=""
            )
        except ssl.SSLError as error:
            raise RequestError(
                "certificate_file",
                f"be PEM, with the key in {tls.key_file} that belongs to it",
                str(tls.certificate_file),
            ) from error
    return context
