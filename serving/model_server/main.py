"""Command line of the server, with the flags of `tensorflow_model_server`."""

from __future__ import annotations

import argparse
import dataclasses
import inspect
import logging
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from serving.model_server.config import ServerConfig
from serving.model_server.preflight import check
from serving.startup import StartupError


def main(argv: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT; returns the exit code."""
    config = parse_flags(argv)
    logging.basicConfig(
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(message)s",
        stream=sys.stderr,
    )
    try:
        check(config)
    except StartupError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    # TensorFlow reads this variable when it is imported.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from serving.model_server.app import ServerApp, serve_until_signal

    def announce(app: ServerApp) -> None:
        if app.grpc_port is not None:
            logging.info("gRPC on %s", app.grpc_target)
        if app.rest_port is not None:
            logging.info("REST on %s", app.rest_url)

    try:
        serve_until_signal(config, announce)
    except StartupError as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    return 0


def parse_flags(argv: Sequence[str] | None = None) -> ServerConfig:
    """Parses flags; ends the process if they are invalid."""
    parser = argparse.ArgumentParser(
        prog="python -m serving.model_server",
        description="Embedded model server speaking TensorFlow Serving's "
        "gRPC and REST protocols.",
        epilog="Example: python -m serving.model_server --model_name=muse "
        "--model_base_path=/models/muse --port=8500 --rest_api_port=8501",
        allow_abbrev=False,
    )
    helps = _helps()
    for field in dataclasses.fields(ServerConfig):
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        text = f"{helps[field.name]} (default: {default!r})"
        kind = type(default)
        flag: dict[str, Any] = {"type": kind, "metavar": kind.__name__.upper()}
        if kind is bool:
            flag = {"type": _boolean, "metavar": "BOOL"}
            flag |= {"nargs": "?", "const": True}
        parser.add_argument(
            f"--{field.name}", default=default, help=text, **flag
        )
    values = vars(parser.parse_args(argv))
    try:
        return ServerConfig(**values)
    except ValueError as error:
        parser.error(str(error))


def _helps() -> dict[str, str]:
    """Returns the help text of each flag, from the settings' docstring."""
    # Python 3.13 already removes the indentation of docstrings.
    text = inspect.cleandoc(ServerConfig.__doc__ or "")
    entries = re.findall(
        r"^ {4}(\w+): (.*?)(?=^ {4}\w+: |\Z)",
        text.partition("Attributes:")[2],
        re.S | re.M,
    )
    return {
        name: " ".join(words.split()).replace("%", "%%").rstrip(".")
        for name, words in entries
    }


def _boolean(text: str) -> bool:
    lowered = text.lower()
    if lowered in ("true", "1", "yes", "t", "y"):
        return True
    if lowered in ("false", "0", "no", "f", "n"):
        return False
    raise argparse.ArgumentTypeError(f"expected true or false, got {text!r}")
