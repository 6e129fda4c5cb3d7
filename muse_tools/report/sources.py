"""Reads the argument of ``muse report``: a pipeline or a comparison."""

from __future__ import annotations

import json
import pathlib

import pydantic
import yaml

from muse_tools.compare.results import Results
from muse_tools.datasets.errors import DataError

RESULTS_FILE = "results.json"
_HINT = (
    "give the YAML file of a pipeline, or an output folder of `muse compare` "
    "or its results.json."
)


def is_comparison(run: pathlib.Path) -> bool:
    """Returns whether a path is a comparison (folder or ``.json``).

    Otherwise it is the YAML file of a pipeline.

    Raises:
        DataError: if the path does not exist or is of another kind.
    """
    if not run.exists():
        raise DataError("NO_SUCH_RUN", f"{run} does not exist.", _HINT)
    if run.is_dir() or run.suffix == ".json":
        return True
    if run.suffix not in (".yaml", ".yml"):
        raise DataError(
            "UNKNOWN_RUN",
            f"{run} is neither a folder nor a .yaml or .json file.",
            _HINT,
        )
    if _compares(run):
        raise DataError(
            "UNKNOWN_RUN",
            f"{run} configures a comparison, not a pipeline.",
            f"run `muse compare --config {run}` and give its output folder.",
        )
    return False


def read_results(run: pathlib.Path) -> tuple[pathlib.Path, Results]:
    """Reads the results of a comparison; returns the file and its content.

    Raises:
        DataError: if the file does not exist or has another format.
    """
    path = run / RESULTS_FILE if run.is_dir() else run
    if not path.is_file():
        raise DataError(
            "NO_RESULTS",
            f"{path} does not exist"
            + (
                ": the comparison has not finished."
                if (run / "cells").is_dir()
                else "."
            ),
            "run `muse compare`."
            if (run / "cells").is_dir()
            else "for a pipeline, give its YAML file."
            if (run / "metadata.sqlite").is_file()
            else _HINT,
        )
    try:
        return path, Results.model_validate_json(path.read_bytes())
    except pydantic.ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise DataError(
            "NOT_RESULTS",
            f"{path} is no results file of `muse compare`: "
            f"{place + ': ' if place else ''}{problem['msg']}"
            f"{_version(path)}.",
            "give the file that this version of `muse compare` wrote.",
        ) from error


def _version(path: pathlib.Path) -> str:
    """Returns the schema version that the file states, "" if none."""
    try:
        found = json.loads(path.read_bytes())["schema_version"]
    except (ValueError, KeyError, TypeError):
        return ""
    return f" (its schema_version is {found})"


def _compares(path: pathlib.Path) -> bool:
    """Returns whether a YAML file is a configuration of ``muse compare``."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        return False  # Loading it as a pipeline reports the error.
    return isinstance(values, dict) and "data_sets" in values
