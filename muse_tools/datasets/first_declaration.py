"""Writes a first declaration of a folder of files, to be edited by the user.

Only the first rows of each file are read, so large files take seconds.
"""

from __future__ import annotations

import datetime
import os
import pathlib
import re
from collections.abc import Iterator
from typing import Any

import yaml

from muse_tools.datasets import table_roles
from muse_tools.datasets.errors import DataError
from muse_tools.datasets.feature_guesses import Guesses
from muse_tools.datasets.parquet_files import listing
from muse_tools.datasets.samples import Column, Sample, find
from muse_tools.datasets.table_roles import Roles
from schemas import ranking_schema, settings_file
from schemas.ranking_schema import RankingSchema
from schemas.settings_file import ConfigError
from serving.files import write_text

QUESTION = "# QUESTION: "
"""Begins each line that needs an answer."""


def write(
    directory: str | os.PathLike[str], out: str | os.PathLike[str] | None = None
) -> tuple[pathlib.Path, str]:
    """Writes a first declaration; returns its path and its text.

    Raises:
        DataError: if the file exists, or the folder holds no table.
    """
    base = pathlib.Path(directory)
    path = pathlib.Path(out) if out else base / ranking_schema.FILE_NAME
    if path.exists():
        raise DataError(
            "FILE_EXISTS",
            f"{path} exists and is not overwritten.",
            "give another file with --out, or move this one away.",
        )
    text = declare(base)
    write_text(path, text)
    return path, text


def declare(base: pathlib.Path) -> str:
    """Returns the YAML of a first declaration, with questions as comments."""
    samples = find(base) or find(base / "raw")
    if not samples:
        raise DataError(
            "NO_TABLES",
            f"{base} holds no table, nor does its raw/. Expected: Parquet, "
            f".csv or .jsonl files, or folders of them. Received: "
            f"{listing(base)}.",
            "give the folder that holds the files of your data.",
        )
    roles = table_roles.find_roles([one for one in samples if one.rows])
    roles.questions += [
        f"{one.name} has no rows. Where are they?"
        for one in samples
        if not one.rows
    ]
    text = "".join(f"{line}\n" for line in _lines(base, roles))
    try:
        values = yaml.safe_load(text)
        settings_file.parse(
            RankingSchema, values, ranking_schema.FILE_NAME, "docs/own-data.md"
        )
    except ConfigError as error:
        return f"{QUESTION}it does not load yet: {error}\n{text}"
    return text


def _lines(base: pathlib.Path, roles: Roles) -> Iterator[str]:
    guesses = Guesses(roles)
    yield "# A first declaration, guessed from the first rows of each file."
    yield "# docs/own-data.md says what the keys mean."
    for question in [*roles.questions, *guesses.questions]:
        yield QUESTION + question.removesuffix(".")
    for sample in roles.others:
        events = (
            " If it has events too, put all into files with the same columns "
            "and name a pattern under log.tables.events"
        ) * ({roles.user, roles.item} <= {*sample.columns})
        yield f"{QUESTION}{sample.name} is not used. What is it?{events}"
    name = re.sub(r"\W+", "_", base.resolve().name) or "own"
    yield f"name: {_flow(name)}"
    for key, column in (("user", roles.user), ("item", roles.item)):
        if column:
            yield f"{key}: {_flow(_key(column, roles))}"
    labels = guesses.labels()
    if labels:
        yield "labels:"
        yield from _entries(labels, 2)
    if guesses.weight:
        yield f"weight: {_flow(guesses.weight)}"
    yield "features:"
    for group, features in guesses.features().items():
        if features:
            yield f"  {group}:"
            yield from _entries(features, 4)
    if not guesses.features()["item"]:
        yield "  item: {}"
    if guesses.matches():
        yield f"  matches: {_flow(guesses.matches())}"
    yield from _sources(roles, guesses)
    if not roles.ready_made:
        yield from _log(roles, guesses)


def _flow(value: Any) -> str:
    """Returns a value as YAML in one line."""
    text = yaml.safe_dump(
        value, default_flow_style=True, sort_keys=False, width=10_000
    )
    return text.removesuffix("\n").removesuffix("\n...")


def _entries(values: dict[str, Any], indent: int) -> Iterator[str]:
    for name, value in values.items():
        shown = "" if value is None else f" {_flow(value)}"
        yield f"{' ' * indent}{_flow(name)}:{shown}"


def _key(column: str, roles: Roles) -> Any:
    tables = (roles.impressions, roles.events, roles.items, roles.users)
    kinds = {
        t.columns[column].kind for t in tables if t and column in t.columns
    }
    if "text" in kinds:
        return {"column": column, "type": "string"}
    return column


def _sources(roles: Roles, guesses: Guesses) -> Iterator[str]:
    """Yields the lines that declare histories and vectors."""
    history = guesses.history
    if history:
        yield f"history: {_flow(_place(history))}"
    elif roles.ready_made:
        yield f"{QUESTION}history: which column lists a user's items?"
    vector = roles.vectors and table_roles.vector_of(roles.vectors, roles.item)
    if vector:
        yield f"vectors: {_flow(_place(vector))}"
    elif guesses.text:
        yield "# Item vectors are computed from this text."
        yield f"text: {_flow(guesses.text)}"
    else:
        yield (
            f"{QUESTION}vectors: no table has a vector for each item. Write "
            "one, or declare text: COLUMN, a column of the items."
        )


def _place(column: Column) -> Any:
    if column.separator:
        return {"column": column.name, "separator": column.separator}
    return column.name


def _log(roles: Roles, guesses: Guesses) -> Iterator[str]:
    yield "log:"
    files = {
        table: sample.name
        for table in ("impressions", "events", "users", "items", "vectors")
        if (sample := getattr(roles, table)) and sample.name != table
    }
    if files:
        yield f"  tables: {_flow(files)}"
    for key, sample in (
        ("time", roles.impressions),
        ("event_time", roles.events),
    ):
        time = table_roles.time_of(sample) if sample else None
        if time:
            yield f"  {key}: {_flow(time.name)}"
    if guesses.request:
        kind = "string" if guesses.request.kind == "text" else "int64"
        request = {"column": guesses.request.name, "type": kind}
        yield f"  request: {_flow(request)}"
    if guesses.action:
        yield f"  action: {_flow(guesses.action.name)}"
        actions = sorted({*guesses.action.values.to_pylist()} - {None})
        shown = ", ".join(map(str, actions[:8]))
        yield f"  {QUESTION}keep: which of {shown} are behaviors? Now all."
    offset = roles.impressions.offset if roles.impressions else ""
    if offset.strip("Z+-0:"):
        yield (
            f"  {QUESTION}timezone: times have the offset {offset}. Days begin "
            "in UTC unless you name a zone, such as Europe/Berlin."
        )
    yield from _days(roles.impressions)


def _days(impressions: Sample | None) -> Iterator[str]:
    """Yields the days of train and eval; the last tenth is for eval."""
    time = table_roles.time_of(impressions) if impressions else None
    span = time.span() if time else None
    if not impressions or not span:
        yield f"  {QUESTION}train and eval: which days?"
        return
    first, last = (_day(value) for value in span)
    days = (last - first).days + 1
    if days < 2:
        yield (
            f"  {QUESTION}train and eval: the rows looked at are of one day, "
            f"{first}; evaluation needs a later one."
        )
        last = first + datetime.timedelta(1)
        days = 2
    elif not impressions.is_whole:
        yield (
            f"  {QUESTION}train and eval: only the first {impressions.rows:,} "
            "rows were looked at. Which days are there?"
        )
    middle = last - datetime.timedelta(max(1, days // 10))
    yield f"  train: [{first}, {middle}]"
    yield f"  eval: [{middle + datetime.timedelta(1)}, {last}]"


def _day(value: Any) -> datetime.date:
    if isinstance(value, int):
        zone = datetime.timezone.utc
        return datetime.datetime.fromtimestamp(value, zone).date()
    return value.date() if isinstance(value, datetime.datetime) else value
