"""``muse rank``: one ranking request to a running server."""

from __future__ import annotations

import enum
import json
import pathlib
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from muse_tools.cli import output
from muse_tools.cli.option_values import parse_ids
from muse_tools.cli.server_options import (
    ModelOption,
    TargetOption,
    TimeoutOption,
    Transport,
    TransportOption,
    address_of,
    opened_client,
)
from muse_tools.cli.tls_options import (
    TargetCaFileOption,
    TargetCertificateFileOption,
    TargetKeyFileOption,
    TargetServerNameOption,
    target_tls,
)

if TYPE_CHECKING:
    from serving.client import MuseClient

__all__ = ["rank"]

_DEMO_DATA = pathlib.Path("demo_output/data")
_CANDIDATES = "candidate_item_ids"
_FIELDS = (
    "user_id",
    "user_profile",
    "behavior_item_ids",
    "behavior_category_ids",
    _CANDIDATES,
)


class Split(str, enum.Enum):
    """Which user table to look in."""

    TEST = "test"
    TRAIN = "train"


def rank(
    user: Annotated[
        int | None, typer.Option(help="User id, looked up in --data.")
    ] = None,
    candidates: Annotated[
        str | None,
        typer.Option(
            help="Item ids to score, comma-separated. [default: what the "
            "matching model finds]"
        ),
    ] = None,
    data: Annotated[
        pathlib.Path | None,
        typer.Option(
            help="Raw data set with the user's profile and history. "
            f"[default: {_DEMO_DATA}, if it is there]"
        ),
    ] = None,
    split: Annotated[
        Split, typer.Option(help="User table of the data set.")
    ] = Split.TEST,
    request: Annotated[
        pathlib.Path | None,
        typer.Option(help="JSON file with the whole request, instead."),
    ] = None,
    target: TargetOption = None,
    transport: TransportOption = Transport.GRPC,
    target_ca_file: TargetCaFileOption = "",
    target_certificate_file: TargetCertificateFileOption = "",
    target_key_file: TargetKeyFileOption = "",
    target_server_name: TargetServerNameOption = "",
    model: ModelOption = "muse",
    matching_model: Annotated[
        str, typer.Option(help="Model that finds candidates.")
    ] = "matching",
    num_candidates: Annotated[
        int, typer.Option(help="Candidates to take from it.", min=1)
    ] = 20,
    explain: Annotated[
        bool, typer.Option("--explain", help="Show what was retrieved.")
    ] = False,
    top: Annotated[
        int,
        typer.Option(help="Retrieved behaviours to show.", min=1),
    ] = 5,
    timeout: TimeoutOption = 30.0,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print JSON instead of a table.")
    ] = False,
) -> None:
    """Score candidates for a user, best first.

    Needs a running server (muse serve). Without --candidates the model
    matching, served beside, finds them. A request file holds user_id,
    user_profile (5 ids), behavior_item_ids, behavior_category_ids and, unless
    they are to be found, candidate_item_ids.

    Example: muse rank --user 1 --candidates 9655212,1070214 --explain
    """
    with output.one_line_errors():
        from serving import client

        ids = (
            None
            if candidates is None
            else parse_ids("--candidates", candidates)
        )
        if data is None and request is None and _DEMO_DATA.is_dir():
            data = _DEMO_DATA
        address = address_of(target, transport)
        tls = target_tls(
            target_ca_file,
            target_certificate_file,
            target_key_file,
            target_server_name,
        )
        with opened_client(address, transport, model, timeout, tls) as opened:
            fields = _fields(user, ids, data, split.value, request)
            matched = _find_candidates(
                opened, fields, matching_model, num_candidates, address
            )
            wanted = client.RankRequest(**fields)
            call = opened.explain if explain else opened.rank
            result = call(wanted)
        names = _names(data, wanted)
        if as_json:
            shown = _as_json(wanted, result, names, explain, top, matched)
            sys.stdout.write(json.dumps(shown, indent=2) + "\n")
        else:
            _print_tables(wanted, result, names, explain, top, matched)


def _fields(
    user: int | None,
    ids: list[int] | None,
    data: pathlib.Path | None,
    split: str,
    file: pathlib.Path | None,
) -> dict[str, Any]:
    """The fields of the request; candidates only where they were given."""
    if file is not None:
        if user is not None:
            raise typer.BadParameter("--user and --request exclude each other")
        fields = _read_fields(file)
        missing = [
            name
            for name in _FIELDS
            if name not in fields and name != _CANDIDATES
        ]
        if missing:
            raise ValueError(f"{file}: {missing[0]} is missing")
        fields = {name: fields[name] for name in _FIELDS if name in fields}
    elif user is None or data is None:
        raise typer.BadParameter(
            "--user and --data are needed, or --request FILE"
        )
    else:
        from muse_tools.datasets.user_lookup import find_user

        fields = find_user(data, user, split)
    return fields if ids is None else {**fields, _CANDIDATES: ids}


def _find_candidates(
    opened: MuseClient,
    fields: dict[str, Any],
    model: str,
    number: int,
    address: str,
) -> dict[int, float]:
    """Adds candidates where there are none.

    Returns:
        What the matching model found: item to its score.
    """
    if _CANDIDATES in fields:
        return {}
    from serving.client import NotFoundError, RecommendRequest

    try:
        found = opened.recommend(
            RecommendRequest(fields["behavior_item_ids"], number), model=model
        )
    except NotFoundError as error:
        raise RuntimeError(
            f"the server at {address} has no model {model!r} to find "
            "candidates with. Give --candidates, or serve both models: muse "
            "serve --model-config-file DIR/matching/models.config"
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
    except ValueError as error:
        raise ValueError(f"{file}: is not JSON: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{file}: must hold an object with {_FIELDS[0]}, …")
    return found


def _names(data: pathlib.Path | None, request: Any) -> dict[int, str]:
    if data is None:
        return {}
    from muse_tools.datasets.user_lookup import item_names

    return item_names(
        data,
        [
            *request.candidate_item_ids.tolist(),
            *request.behavior_item_ids.tolist(),
        ],
    )


def _retrieved(
    result: Any, candidate: int, top: int
) -> list[tuple[int, float, float]]:
    """Position, similarity and attention of the best behaviours."""
    return [
        (
            int(result.behavior_indices[candidate, place]),
            float(result.similarities[candidate, place]),
            float(result.attention[candidate, place]),
        )
        for place in range(result.retrieved.shape[1])
        if result.retrieved[candidate, place]
    ][:top]


def _as_json(
    request: Any,
    result: Any,
    names: dict[int, str],
    explain: bool,
    top: int,
    matched: Mapping[int, float],
) -> dict[str, Any]:
    rows = []
    for candidate in result.order().tolist():
        item = int(result.candidate_item_ids[candidate])
        row: dict[str, Any] = {
            "item_id": item,
            "click_probability": float(result.click_probability[candidate]),
        }
        if item in names:
            row["name"] = names[item]
        if item in matched:
            row["matching_score"] = matched[item]
        if explain:
            row["behaviors"] = [
                _behavior(request, position, similarity, attention, names)
                for position, similarity, attention in _retrieved(
                    result, candidate, top
                )
            ]
        rows.append(row)
    return {"user_id": request.user_id, "candidates": rows}


def _behavior(
    request: Any,
    position: int,
    similarity: float,
    attention: float,
    names: dict[int, str],
) -> dict[str, Any]:
    item = int(request.behavior_item_ids[position])
    behavior = {
        "position": position,
        "item_id": item,
        "similarity": similarity,
        "attention": attention,
    }
    return {**behavior, "name": names[item]} if item in names else behavior


def _print_tables(
    request: Any,
    result: Any,
    names: dict[int, str],
    explain: bool,
    top: int,
    matched: Mapping[int, float],
) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(
        title=f"User {request.user_id}, "
        f"{len(request.behavior_item_ids)} past behaviours"
    )
    table.add_column("Rank", justify="right")
    table.add_column("Item", justify="right")
    if names:
        table.add_column("Name", overflow="fold")
    if matched:
        table.add_column("Matching score", justify="right")
    table.add_column("Click probability", justify="right")
    order = result.order().tolist()
    for place, candidate in enumerate(order, 1):
        item = int(result.candidate_item_ids[candidate])
        table.add_row(
            str(place),
            str(item),
            *([names.get(item, "")] if names else []),
            *([f"{matched[item]:.3f}"] if matched else []),
            f"{result.click_probability[candidate]:.4f}",
        )
    console.print(table)
    if not explain:
        return
    best = order[0]
    item = int(result.candidate_item_ids[best])
    found = _retrieved(result, best, top)
    if not found:
        console.print(f"Nothing was retrieved for item {item}.")
        return
    table = Table(title=f"Retrieved for {names.get(item, f'item {item}')}")
    table.add_column("Position", justify="right")
    table.add_column("Item", justify="right")
    if names:
        table.add_column("Name", overflow="fold")
    table.add_column("Similarity", justify="right")
    table.add_column("Attention", justify="right")
    for position, similarity, attention in found:
        item = int(request.behavior_item_ids[position])
        table.add_row(
            str(position),
            str(item),
            *([names.get(item, "")] if names else []),
            f"{similarity:.3f}",
            f"{attention:.3f}",
        )
    console.print(table)
