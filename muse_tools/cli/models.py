"""``muse models``: model versions in object storage."""

from __future__ import annotations

import pathlib
import sys
import time
from typing import Annotated

import typer

from muse_tools.cli import output

app = output.group("models", "Copy model versions to and from object storage.")

_URL_HELP = (
    "s3://bucket/models, gs://…, hdfs://… or file:///mounted/volume; "
    "AWS_ENDPOINT_URL names an S3 server other than Amazon's."
)


@app.callback()
def models() -> None:
    """Copy model versions to and from object storage."""


@app.command()
def push(
    version: Annotated[
        pathlib.Path,
        typer.Argument(help="Version folder whose name is its number."),
    ],
    url: Annotated[
        str, typer.Argument(help=f"URL of the model's versions. {_URL_HELP}")
    ],
) -> None:
    """Copy a version to object storage.

    Servers see it when all its files are there. The time is that of the
    transfer. A pipeline with `pusher.storage` does the same.

    Example: muse models push serving_out/muse/7 s3://bucket/models/muse
    """
    with output.one_line_errors():
        from serving import model_storage

        if not version.name.isdecimal():
            raise typer.BadParameter(
                "expected a version folder whose name is its number, such as "
                f"muse/7. Received: {version}"
            )
        model_storage.store_version(version, url, int(version.name))
        output.write_lines([f"{url}: version {int(version.name)}"])


@app.command()
def pull(
    url: Annotated[
        str, typer.Argument(help=f"URL above those of the models. {_URL_HELP}")
    ],
    folder: Annotated[
        pathlib.Path, typer.Argument(help="Folder of the served models.")
    ],
    model: Annotated[
        list[str], typer.Option(help="Name of a model. Repeat it for several.")
    ],
    file: Annotated[
        list[str] | None,
        typer.Option(help="File to copy as well, if there is one."),
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Keep running.")
    ] = False,
    poll: Annotated[
        float,
        typer.Option(help="Seconds between two looks of --watch.", min=0.05),
    ] = 10.0,
) -> None:
    """Copy the newest version of each model to the folder of a server.

    A version appears when it is complete; withdrawn ones disappear. The time
    is that of the transfer.

    Example: muse models pull s3://bucket/models /models --model muse --watch
    """
    with output.one_line_errors():
        if not watch:
            _pull(url, folder, model, file or [])
    while watch:
        try:
            _pull(url, folder, model, file or [])
        except (OSError, ValueError) as error:  # The next look may succeed.
            sys.stderr.write(f"error: {' '.join(str(error).split())}\n")
            sys.stderr.flush()
        time.sleep(poll)


def _pull(
    url: str, folder: pathlib.Path, models: list[str], files: list[str]
) -> None:
    from serving import model_storage

    for model in models:
        place = f"{url.rstrip('/')}/{model}"
        version = model_storage.fetch_newest(place, folder / model)
        if version is not None:
            output.write_lines([f"{place}: version {version}"])
    for name in files:
        place = f"{url.rstrip('/')}/{name}"
        if model_storage.fetch_file(place, folder / name):
            output.write_lines([f"{place}: copied"])
