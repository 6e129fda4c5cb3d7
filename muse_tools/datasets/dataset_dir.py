"""Generated data sets on disk: complete or absent, reused if equal.

Layout::

    DIR/dataset.json        description; written last, so it marks completion
    DIR/raw/*.parquet       the raw tables
    DIR/*.parquet           optional extras, such as names
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from muse_tools.datasets.errors import DataError
from muse_tools.datasets.parquet_files import find_files
from muse_tools.datasets.raw_tables import TABLES as RAW_TABLES
from muse_tools.datasets.search_tables import TABLES as SEARCH_TABLES
from serving.files import dumps, write_text

DESCRIPTION = "dataset.json"
FORMAT = "muse-raw-tables"
_STAGING = ".partial"

Progress = Callable[[str, float], None]
"""Called with the name of a stage and the share of work done, 0 to 1."""


def read_description(directory: str | os.PathLike[str]) -> dict[str, Any]:
    """Returns ``dataset.json``, or an empty dict if there is none."""
    path = pathlib.Path(directory) / DESCRIPTION
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def make(
    directory: str | os.PathLike[str],
    name: str,
    version: int,
    parameters: Mapping[str, Any],
    write: Callable[[pathlib.Path, dict[str, Any], Progress], None],
    progress: Progress | None = None,
    **about: Any,
) -> tuple[dict[str, Any], bool]:
    """Writes a data set, unless an equal, complete one exists.

    Returns its description, to which `write` adds, and whether it existed.
    """
    found = reusable(directory, parameters, version)
    if found is not None:
        return found, True
    description = {
        "name": name,
        "generator_version": version,
        "parameters": dict(parameters),
        **about,
    }
    tell = progress or (lambda stage, share: None)
    started = time.monotonic()
    with staged(directory, description) as staging:
        write(staging, description, tell)
        description["seconds"] = round(time.monotonic() - started, 1)
    tell("done", 1.0)
    return description, False


def reusable(
    directory: str | os.PathLike[str],
    parameters: Mapping[str, Any],
    version: int,
) -> dict[str, Any] | None:
    """Returns the description of a complete output with equal parameters.

    An output is complete if every file exists with its recorded size.
    """
    root = pathlib.Path(directory)
    found = read_description(root)
    wanted = json.loads(json.dumps(dict(parameters)))
    if (
        found.get("format") != FORMAT
        or found.get("parameters") != wanted
        or found.get("generator_version") != version
        or not found.get("files")
    ):
        return None
    for name, size in found["files"].items():
        path = root / name
        if not path.is_file() or path.stat().st_size != size:
            return None
    return found


@contextlib.contextmanager
def staged(
    directory: str | os.PathLike[str], description: dict[str, Any]
) -> Iterator[pathlib.Path]:
    """Yields a staging directory that becomes the output at the end.

    If the ``with`` block succeeds, its files replace the old output, and
    ``dataset.json`` (the description and the list of files) is written last.
    After an error or a kill, the old output is unchanged or absent.
    """
    root = pathlib.Path(directory)
    staging = root / _STAGING
    names = (*RAW_TABLES, *SEARCH_TABLES)
    foreign = [n for n in names if find_files(root, n)] or (
        (root / "raw").is_dir()
        and any((root / "raw").iterdir())
        and read_description(root).get("format") != FORMAT
        and not staging.is_dir()
    )
    if foreign:
        raise DataError(
            "OUTPUT_EXISTS",
            f"{root} already holds tables that were not generated here.",
            "choose another --out directory; these are left untouched.",
        )
    if staging.exists():
        shutil.rmtree(staging)
    staging.mkdir(parents=True)
    try:
        yield staging
        description["format"] = FORMAT
        description["files"] = {
            str(path.relative_to(staging).as_posix()): path.stat().st_size
            for path in sorted(staging.rglob("*"))
            if path.is_file()
        }
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        with contextlib.suppress(OSError):
            root.rmdir()  # Fails unless it is empty.
        raise
    # A kill from here on leaves the staging directory but no dataset.json, so
    # the next run starts over and does not take the tables for foreign ones.
    (root / DESCRIPTION).unlink(missing_ok=True)
    for path in sorted(staging.iterdir()):
        target = root / path.name
        if target.is_dir():
            shutil.rmtree(target)
        os.replace(path, target)
    # Written to the staging directory first, which a kill leaves in place.
    write_text(
        staging / DESCRIPTION,
        dumps(description, indent=2, ensure_ascii=False) + "\n",
    )
    os.replace(staging / DESCRIPTION, root / DESCRIPTION)
    staging.rmdir()
