"""``muse rank``: sends one ranking request to a running server."""

from __future__ import annotations

import json
import pathlib
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from muse_tools.cli import output
from muse_tools.cli.feature_options import (
    CandidateFeatureOption,
    ContextOption,
    SchemaOption,
    UserFeatureOption,
    read_features,
)
from muse_tools.cli.options import (
    Connection,
    JsonOption,
    MatchingModelOption,
    Split,
    SplitOption,
    grouped,
    parse_ids,
)

if TYPE_CHECKING:
    from schemas.ranking_schema import RankingSchema
    from serving.client import MuseClient, RankRequest, RankResult
    from serving.client.declaration import Declaration

_DEMO_DATA = pathlib.Path("demo_output/data")
_CANDIDATES = "candidate_item_ids"
_FIELDS = (
    *("user_id", "behavior_item_ids", "user", "behaviors", _CANDIDATES),
    *("context", "candidates"),
)


@grouped
def rank(
    connection: Connection,
    user: Annotated[
        str | None, typer.Option(help="User id, looked up in --data.")
    ] = None,
    candidates: Annotated[
        str | None,
        typer.Option(
            help="Item ids to score, comma-separated. [default: what the "
            "retrieval model finds]"
        ),
    ] = None,
    data: Annotated[
        pathlib.Path | None,
        typer.Option(
            help="Raw data set with the user's profile and history. "
            f"[default: {_DEMO_DATA}, if it is there]"
        ),
    ] = None,
    split: SplitOption = Split.TEST,
    user_feature: UserFeatureOption = None,
    context: ContextOption = None,
    candidate_feature: CandidateFeatureOption = None,
    schema: SchemaOption = "",
    request: Annotated[
        pathlib.Path | None,
        typer.Option(help="JSON file with the whole request, without --user."),
    ] = None,
    matching_model: MatchingModelOption = "matching",
    num_candidates: Annotated[
        int, typer.Option(help="Candidates to take from that model.", min=1)
    ] = 20,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show retrieved behaviors.")
    ] = False,
    top: Annotated[
        int,
        typer.Option(help="Retrieved behaviors to show.", min=1),
    ] = 5,
    as_json: JsonOption = False,
) -> None:
    """Score candidates for a user, best first.

    Needs a running server (muse serve). Without --candidates, the retrieval
    model of the same server finds them. A request file holds user_id,
    behavior_item_ids, the features user and context (by name), behaviors
    (lists by name, as long as the history) and, unless the retrieval model
    finds them, candidate_item_ids and candidates (lists by name). Without
    --schema, the declaration beside --data is used.

    Example: muse rank --user 1 --candidates 9655212,1070214 --explain

    Features: muse rank --user 1 --candidates 7,8 --context device=phone
    --user-feature income=1200.5 --candidate-feature price=9.5,12
    """
    with output.one_line_errors():
        from serving import client
        from serving.client.declaration import Declaration

        if data is None and request is None and _DEMO_DATA.is_dir():
            data = _DEMO_DATA
        known = Declaration(_schema(schema, data))
        ids = _candidate_ids(candidates, known)
        with connection.opened(known.schema) as opened:
            fields = _fields(user, ids, data, split.value, request, known)
            if user_feature or context or candidate_feature:
                inputs = opened.metadata().signatures["rank"].inputs
                for field, option, prefix, given in (
                    ("user", "--user-feature", "user_", user_feature),
                    ("context", "--context", "context_", context),
                    (
                        "candidates",
                        "--candidate-feature",
                        "candidate_",
                        candidate_feature,
                    ),
                ):
                    found = read_features(option, prefix, given, inputs)
                    fields[field] = {**fields.get(field, {}), **found}
            matched = _find_candidates(
                opened,
                fields,
                matching_model,
                num_candidates,
                connection.address,
            )
            wanted = client.RankRequest(**fields)
            call = opened.explain if explain else opened.rank
            result = call(wanted)
        names = {} if data is None else _item_names(data, wanted, known)
        rows = candidate_rows(wanted, result, names, top)
        for row in rows:
            if row["item_id"] in matched:
                row["matching_score"] = matched[row["item_id"]]
        if as_json:
            output.write_json({"user_id": wanted.user_id, "candidates": rows})
        else:
            _print_tables(wanted, rows, names)


def _schema(given: str, data: pathlib.Path | None) -> RankingSchema | None:
    """Returns the declaration by which texts are hashed, or None."""
    from schemas import ranking_schema

    if given:
        return ranking_schema.named(given)
    folders = () if data is None else (data, data / "raw")
    found = [f for f in folders if (f / ranking_schema.FILE_NAME).is_file()]
    return ranking_schema.beside(*found) if found else None


def _candidate_ids(text: str | None, known: Declaration) -> Any:
    """Returns the ids of --candidates: texts if item keys are texts."""
    if text is None:
        return None
    if known.schema is not None and known.schema.item.type == "string":
        return text.split(",")
    return parse_ids("--candidates", text)


def _item_names(
    data: pathlib.Path, request: RankRequest, known: Declaration
) -> dict[Any, str]:
    """Returns names of items by their ids as given in the request."""
    from muse_tools.datasets.user_lookup import item_names

    keys: dict[Any, int] = {}
    for field in (_CANDIDATES, "behavior_item_ids"):
        given: Any = getattr(request, field)
        ids = known.ids("item_id", field, given)
        keys |= zip(given.tolist(), ids.tolist(), strict=True)
    names = item_names(data, keys.values())
    return {key: names[item] for key, item in keys.items() if item in names}


def _fields(
    user: str | None,
    ids: Any,
    data: pathlib.Path | None,
    split: str,
    file: pathlib.Path | None,
    known: Declaration,
) -> dict[str, Any]:
    """Returns the fields of the request; candidates only if given."""
    if file is not None:
        if user is not None:
            raise typer.BadParameter("--user and --request exclude each other")
        fields = _read_fields(file)
        if others := sorted(set(fields) - set(_FIELDS)):
            raise ValueError(
                f"{file}: {others[0]} is no field of a request, which are "
                f"{', '.join(_FIELDS)}"
            )
        for name in _FIELDS[:2]:
            if name not in fields:
                raise ValueError(f"{file}: {name} is missing")
    elif user is None or data is None:
        lacking = "--user" if user is None else "--data"
        raise typer.BadParameter(
            f"{lacking} is missing: give --user ID and --data DIR, or "
            f"--request FILE. Without --data, {_DEMO_DATA} is read if it is "
            "there"
        )
    else:
        with output.wrong_usage("--user"):
            user_id = known.id("user_id", "--user", user)
        fields = _user(data, user_id, split)
    return fields if ids is None else {**fields, _CANDIDATES: ids}


def _user(data: pathlib.Path, user: int, split: str) -> dict[str, Any]:
    from muse_tools.datasets import raw_tables, user_lookup

    if raw_tables.RawTables.open(data).declared.log is None:
        return user_lookup.find_user(data, user, split)
    from muse_tools.stores import log_users  # Beam is slow to import.

    return log_users.find_user(data, user, split)


def _find_candidates(
    opened: MuseClient,
    fields: dict[str, Any],
    model: str,
    number: int,
    address: str,
) -> dict[int, float]:
    """Adds candidates to `fields` if there are none; returns their scores."""
    if _CANDIDATES in fields:
        return {}
    if not model:
        raise typer.BadParameter(
            "without --candidates, --matching-model must name the model that "
            "finds them. Received: ''"
        )
    from serving.client import NotFoundError, RecommendRequest

    try:
        found = opened.recommend(
            RecommendRequest(fields["behavior_item_ids"], number), model=model
        )
    except NotFoundError as error:
        raise RuntimeError(
            f"the server at {address} has no model {model!r} to find "
            "candidates with. Give --candidates, or serve both models: muse "
            "serve --model-config-file DIR/matching/models.config (MUSE) or "
            "models_TYPE.config"
        ) from error
    fields[_CANDIDATES] = found.candidate_item_ids
    return dict(
        zip(
            found.candidate_item_ids.tolist(),
            found.scores.tolist(),
            strict=True,
        )
    )


def _read_fields(file: pathlib.Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(
            f"--request {file}: {error.strerror}; expected a JSON file"
        ) from error
    except ValueError as error:
        raise ValueError(f"{file}: is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file}: must hold an object with {_FIELDS[0]}, …")
    return found


def candidate_rows(
    request: RankRequest,
    result: RankResult,
    names: dict[Any, str],
    top: int,
) -> list[dict[str, Any]]:
    """Returns the candidates, best first, with `top` retrieved behaviors."""
    from serving.client import ExplainResult

    history: list[Any] = np.asarray(request.behavior_item_ids).tolist()
    items = result.candidate_item_ids.tolist()

    def named(item: Any, **values: Any) -> dict[str, Any]:
        name = {"name": names[item]} if item in names else {}
        return {"item_id": item, **values, **name}

    rows = []
    for candidate in result.order().tolist():
        scores = {
            f"{label}_probability": float(values[candidate])
            for label, values in result.probabilities.items()
        }
        rows.append(named(items[candidate], **scores))
        if not isinstance(result, ExplainResult):
            continue
        places = result.retrieved[candidate].nonzero()[0][:top].tolist()
        positions = result.behavior_indices[candidate, places].tolist()
        rows[-1]["behaviors"] = [
            named(
                history[position],
                position=position,
                similarity=float(result.similarities[candidate, place]),
                attention=float(result.attention[candidate, place]),
            )
            for place, position in zip(places, positions, strict=True)
        ]
    return rows


# Heading and format by key.
_COLUMNS = {
    "rank": ("Rank", "{}"),
    "position": ("Position", "{}"),
    "item_id": ("Item", "{}"),
    "name": ("Name", "{}"),
    "matching_score": ("Retrieval score", "{:.3f}"),
    "click_probability": ("Click probability", "{:.4f}"),
    "similarity": ("Similarity", "{:.3f}"),
    "attention": ("Attention", "{:.3f}"),
}


def _print_tables(
    request: RankRequest, rows: list[dict[str, Any]], names: dict[Any, str]
) -> None:
    _print_table(
        f"User {request.user_id}, {len(request.behavior_item_ids)} past "
        "behaviors",
        [{"rank": place, **row} for place, row in enumerate(rows, 1)],
    )
    if "behaviors" in rows[0]:
        item = rows[0]["item_id"]
        name = names.get(item, f"item {item}")
        if rows[0]["behaviors"]:
            _print_table(f"Retrieved for {name}", rows[0]["behaviors"])
        else:
            output.write_lines([f"Nothing was retrieved for {name}."])


def _print_table(title: str, rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title)
    keys = [key for key in _COLUMNS if any(key in row for row in rows)]
    more = [key for key in rows[0] if key.endswith("_probability")]
    columns = []
    for key in dict.fromkeys((*keys, *more)):
        label = key.removesuffix("_probability").replace("_", " ")
        other = (f"{label.capitalize()} probability", "{:.4f}")
        heading, form = _COLUMNS.get(key, other)
        entries = [form.format(row[key]) if key in row else "" for row in rows]
        text = key == "name"
        table.add_column(
            heading,
            justify="left" if text else "right",
            overflow="fold",
            # A truncated id could not be copied.
            min_width=None if text else max(map(len, entries)),
        )
        columns.append(entries)
    for row_entries in zip(*columns, strict=True):
        table.add_row(*row_entries)
    Console().print(table)
