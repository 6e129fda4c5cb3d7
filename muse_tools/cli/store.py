"""``muse store``: histories of users, kept for serving."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pathlib
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import typer

from muse_tools.cli import output
from muse_tools.cli.listening_options import STORE_URL
from muse_tools.cli.option_values import grpc_target, parse_ids, positive
from muse_tools.cli.rank import Split
from muse_tools.cli.server_options import Transport, opened_client
from muse_tools.cli.tls_options import (
    TargetCaFileOption,
    TargetCertificateFileOption,
    TargetKeyFileOption,
    TargetServerNameOption,
    target_tls,
)

if TYPE_CHECKING:
    from serving.client import MuseClient, Tls
    from serving.stores import BehaviorStore, LoadReport, UserHistory

__all__ = ["app"]

app = typer.Typer(
    name="store",
    help="Keep histories of users for serving, in LMDB or Redis.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Url = Annotated[
    str,
    typer.Option(
        "--store",
        help=STORE_URL,
    ),
]
User = Annotated[int, typer.Option(help="User id.")]
Limit = Annotated[
    int, typer.Option(help="Newest events kept of each user.", min=1)
]
Timeout = Annotated[
    float,
    typer.Option(
        help="Seconds to wait for an answer of the store.", callback=positive
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Model = Annotated[str, typer.Option(help="Model name.")]

_RESOLVE_IDS = 100_000


@app.callback()
def store() -> None:
    """Keep histories of users for serving, in LMDB or Redis."""


@app.command()
def load(
    url: Url,
    data: Annotated[
        pathlib.Path,
        typer.Option(
            help="Raw data set: the folder that holds the table, or its raw/."
        ),
    ],
    split: Annotated[
        Split,
        typer.Option(
            help="Which table: test_user_features or train_user_features. "
            "The other split's users stay as they are."
        ),
    ] = Split.TEST,
    rejected: Annotated[
        pathlib.Path | None,
        typer.Option(
            help="Folder for rows that cannot be loaded. "
            "[default: <split>_user_features.rejected in the data set]"
        ),
    ] = None,
    model_target: Annotated[
        str | None,
        typer.Option(
            help="host:port of a model server: resolve the item ids to its "
            "rows as well, as muse store rows does.",
            callback=grpc_target,
        ),
    ] = None,
    target_ca_file: TargetCaFileOption = "",
    target_certificate_file: TargetCertificateFileOption = "",
    target_key_file: TargetKeyFileOption = "",
    target_server_name: TargetServerNameOption = "",
    model: Model = "muse",
    limit: Limit = 100_000,
    timeout: Timeout = 60.0,
    as_json: Json = False,
) -> None:
    """Load every user of a raw table, in place of what was there of them.

    Reads test_user_features (or, with --split train, train_user_features) of
    --data: profile and history, oldest first. A new store is made; of a
    history longer than --limit the newest events are kept.

    Started again after a failure, it goes on where it stopped. Rows that
    cannot be loaded are kept in --rejected, with their reasons.

    Example: muse store load --data demo_output/data --store lmdb:/tmp/store
    --limit 10000
    """
    with output.one_line_errors():
        from muse_tools.datasets.errors import DataError
        from muse_tools.demo import user_store

        tls = target_tls(
            target_ca_file,
            target_certificate_file,
            target_key_file,
            target_server_name,
        )
        folder = rejected or data / f"{split.value}_user_features.rejected"
        say = output.Reporter()

        def progress(report: LoadReport, total: int) -> None:
            rate = report.users / max(report.seconds, 1e-9)
            say(
                f"{report.rows:,} of {total:,} users, {report.events:,} "
                f"events, {rate:,.0f} users/s"
            )

        user_store.user_table(data, split.value)  # Before a store is made.
        with _writable(url, limit, timeout) as opened:
            report = user_store.load_table(
                opened, data, split.value, folder, progress
            )
            if not report.users + report.resumed:
                raise DataError(
                    "NO_USABLE_ROWS",
                    f"no user was loaded: all {report.rows} rows of "
                    f"{split.value}_user_features were rejected.",
                    f"see {output.short(folder)}, and `muse data inspect "
                    f"{data}`.",
                )
            if model_target is not None:
                _resolve_all(opened, model_target, model, timeout, tls)
        if as_json:
            _write_json(dataclasses.asdict(report))
            return
        text = (
            f"{report.users} users, {report.events} events in "
            f"{report.seconds:.1f} s"
        )
        if report.resumed:
            text += f"; {report.resumed} rows were loaded before"
        if report.padding:
            text += f"; {report.padding} padding events left out"
        for reason, count in report.rejected.items():
            text += f"; {count} rejected ({reason})"
        if report.rejected:
            text += f"; see {output.short(folder)}"
        sys.stdout.write(text + "\n")


@app.command()
def stats(
    url: Url,
    limit: Limit = 100_000,
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """Show how many users and events there are, and the bytes they take."""
    with output.one_line_errors(), _open(url, limit, timeout) as opened:
        found = opened.stats()
        if as_json:
            _write_json(dataclasses.asdict(found))
            return
        sys.stdout.write(
            f"{found.users} users, {found.events} events, {found.rows} users "
            f"with rows, {found.bytes:,} bytes\n"
        )


@app.command()
def get(
    url: Url,
    user: User,
    last: Annotated[
        int, typer.Option(help="Newest events to show.", min=0)
    ] = 10,
    limit: Limit = 100_000,
    timeout: Timeout = 10.0,
    as_json: Json = False,
) -> None:
    """Show a user's profile and newest events, newest first."""
    with output.one_line_errors(), _open(url, limit, timeout) as opened:
        found = opened.read(user)
        if found is None:
            raise ValueError(f"the store has no user {user}")
        _print_user(found, last, as_json)


@app.command()
def append(
    url: Url,
    user: User,
    items: Annotated[
        str, typer.Option(help="Item ids, comma-separated, oldest first.")
    ],
    categories: Annotated[
        str, typer.Option(help="Category ids, as many as items.")
    ],
    limit: Limit = 100_000,
    timeout: Timeout = 10.0,
) -> None:
    """Append events of a user.

    Example: muse store append --store lmdb:/tmp/store --user 1 --items 11,12
    --categories 3,3
    """
    with output.one_line_errors():
        item_ids = parse_ids("--items", items)
        category_ids = parse_ids("--categories", categories)
        if len(item_ids) != len(category_ids):
            raise typer.BadParameter(
                f"expected as many as --items, {len(item_ids)}. "
                f"Received: {len(category_ids)}",
                param_hint="--categories",
            )
        with _writable(url, limit, timeout) as opened:
            opened.append(user, item_ids, category_ids)
            found = opened.read(user)
        count = 0 if found is None else len(found)
        sys.stdout.write(f"user {user}: {count} events\n")


@app.command()
def delete(
    url: Url,
    user: Annotated[
        list[int] | None, typer.Option(help="User id; may be repeated.")
    ] = None,
    users_file: Annotated[
        pathlib.Path | None,
        typer.Option(help="Text file with a user id per line."),
    ] = None,
    limit: Limit = 100_000,
    timeout: Timeout = 60.0,
) -> None:
    """Delete users with all that is known of them.

    What a model server still holds of them in its cache goes when others need
    the place or the version is replaced.

    Example: muse store delete --store lmdb:/tmp/store --user 1 --user 2
    """
    with output.one_line_errors():
        users = set(user or [])
        if users_file is not None:
            users |= _read_users(users_file)
        if not users:
            raise typer.BadParameter("--user or --users-file is needed")
        with _open(url, limit, timeout) as opened:
            found = opened.delete_many(users)
        sys.stdout.write(f"{found} of {len(users)} users deleted\n")


def _read_users(file: pathlib.Path) -> set[int]:
    users = set()
    lines = file.read_bytes().decode("utf-8-sig", "replace").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                users.add(int(line))
        except ValueError as error:
            raise ValueError(
                f"{file}, line {number}: expected a user id. Received: {line!r}"
            ) from error
    if not users:
        raise ValueError(
            f"{file}, line 1: expected a user id on each line. Received: none"
        )
    return users


@app.command()
def rows(
    url: Url,
    target: Annotated[
        str,
        typer.Option(
            help="host:port of the model server (gRPC).", callback=grpc_target
        ),
    ] = "127.0.0.1:8500",
    target_ca_file: TargetCaFileOption = "",
    target_certificate_file: TargetCertificateFileOption = "",
    target_key_file: TargetKeyFileOption = "",
    target_server_name: TargetServerNameOption = "",
    model: Model = "muse",
    limit: Limit = 100_000,
    timeout: Timeout = 60.0,
) -> None:
    """Resolve every history to the rows of a served model's item table.

    A prefetch then sends rows instead of ids. They count until the history
    goes on or another item table serves.
    """
    with output.one_line_errors(), _open(url, limit, timeout) as opened:
        tls = target_tls(
            target_ca_file,
            target_certificate_file,
            target_key_file,
            target_server_name,
        )
        _resolve_all(opened, target, model, timeout, tls)


def _open(
    url: str, limit: int, timeout: float, create: bool = False
) -> BehaviorStore:
    from serving.stores import check_url, open_store

    with output.wrong_usage("--store"):
        check_url(url)
    return open_store(url, limit=limit, timeout=timeout, create=create)


@contextlib.contextmanager
def _writable(url: str, limit: int, timeout: float) -> Iterator[BehaviorStore]:
    """A store, made if need be; a failure leaves no new empty one behind."""
    from serving.stores import LmdbStore

    with _open(url, limit, timeout, create=True) as opened:
        try:
            yield opened
        except BaseException:
            if isinstance(opened, LmdbStore) and opened.is_new:
                if not opened.stats().users:
                    opened.remove()
            raise


def _print_user(found: UserHistory, last: int, as_json: bool) -> None:
    newest = found.newest(last)
    pairs = zip(newest.item_ids, newest.category_ids, strict=True)
    events = [(int(item), int(category)) for item, category in pairs][::-1]
    if as_json:
        _write_json(
            {
                "user_id": found.user_id,
                "profile": found.profile.tolist(),
                "events": len(found),
                "has_rows": found.rows is not None,
                "newest": [
                    {"item_id": item, "category_id": category}
                    for item, category in events
                ],
            }
        )
        return
    profile = " ".join(str(value) for value in found.profile)
    resolved = "" if found.rows is None else ", resolved to rows"
    sys.stdout.write(
        f"user {found.user_id}: profile {profile}, {len(found)} events"
        f"{resolved}\n"
    )
    for item, category in events:
        sys.stdout.write(f"item {item}, category {category}\n")


def _resolve_all(
    opened: BehaviorStore,
    target: str,
    model: str,
    timeout: float,
    tls: Tls | None,
) -> None:
    """Sets the rows of every user of the store."""
    done = behind = 0
    with opened_client(target, Transport.GRPC, model, timeout, tls) as server:
        for users in _groups(opened):
            kept = _resolve(opened, server, users)
            done += kept
            behind += len(users) - kept
    text = f"{done} users resolved to rows"
    if behind:
        text += f"; {behind} went on meanwhile"
    sys.stdout.write(text + "\n")


def _groups(opened: BehaviorStore) -> Iterator[list[UserHistory]]:
    """Yields users, so many at once that one call resolves them."""
    group: list[UserHistory] = []
    ids = 0
    for user_id in opened.user_ids():
        found = opened.read(user_id)
        if found is None:
            continue
        if group and ids + len(found) > _RESOLVE_IDS:
            yield group
            group, ids = [], 0
        group.append(found)
        ids += len(found)
    if group:
        yield group


def _resolve(
    opened: BehaviorStore, server: MuseClient, users: list[UserHistory]
) -> int:
    """Returns how many users' rows were kept."""
    histories = [user.item_ids for user in users]
    ids, places = np.unique(np.concatenate(histories), return_inverse=True)
    if not len(ids):
        return len(users)
    resolved: Any = server.resolve_items(ids)
    ends = np.cumsum([len(history) for history in histories])[:-1]
    found = np.asarray(resolved.rows)[places.reshape(-1)]
    return sum(
        opened.set_rows(
            user.user_id, part, int(resolved.table_stamp), end=user.end
        )
        for user, part in zip(users, np.split(found, ends), strict=True)
    )


def _write_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
