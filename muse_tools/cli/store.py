"""``muse store``: manages the histories of users for serving."""

from __future__ import annotations

import contextlib
import dataclasses
import pathlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from muse_tools.cli import output, store_texts
from muse_tools.cli.options import (
    LOCAL_SERVER,
    Connection,
    DataOption,
    JsonOption,
    ModelOption,
    Split,
    SplitOption,
    StoreOption,
    TargetOption,
    TargetTls,
    address,
    grouped,
    parse_ids,
    positive,
)

if TYPE_CHECKING:
    from serving.stores import (
        BehaviorStore,
        Layout,
        LoadReport,
    )

app = output.group(
    "store", "Keep histories of users for serving, in LMDB or Redis."
)

User = Annotated[str, typer.Option(help="User id.")]


@dataclasses.dataclass(frozen=True)
class _Store:
    """Options of every command: the store and how it is opened."""

    store: StoreOption
    limit: Annotated[
        int, typer.Option(help="Newest events kept of each user.", min=1)
    ] = 100_000
    timeout: Annotated[
        float,
        typer.Option(
            help="Seconds to wait for an answer of the store.",
            callback=positive,
        ),
    ] = 30.0

    def opened(
        self,
        layout: Layout | None = None,
        to: str | None = None,
        old_format: bool = False,
    ) -> BehaviorStore:
        """Opens the store, or the one at `to`; see `open_store`."""
        from serving.stores import check_url, open_store

        with output.wrong_usage("--to" if to else "--store"):
            check_url(to or self.store)
        return open_store(
            to or self.store,
            layout,
            limit=self.limit,
            timeout=self.timeout,
            old_format=old_format,
        )

    @contextlib.contextmanager
    def made(
        self, layout: Layout, to: str | None = None
    ) -> Iterator[BehaviorStore]:
        """Opens or creates a store; a failure leaves no new empty one."""
        with self.opened(layout, to) as opened:
            try:
                yield opened
            except BaseException:
                if opened.is_new and not opened.stats().users:
                    opened.remove()
                raise


@app.command()
@grouped
def load(
    tls: TargetTls,
    place: _Store,
    data: DataOption,
    split: SplitOption = Split.TEST,
    rejected: Annotated[
        pathlib.Path | None,
        typer.Option(
            help="Folder for rows that cannot be loaded. "
            "[default: <split>_user_features.rejected in the data set]"
        ),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(
            help="HOST:PORT of a model server's gRPC: resolve the item ids to "
            "its rows as well, as muse store rows does.",
            callback=address,
        ),
    ] = None,
    model: ModelOption = "muse",
    as_json: JsonOption = False,
) -> None:
    """Load every user of a raw table, replacing users that are stored.

    Reads test_user_features (or, with --split train, train_user_features) of
    --data, with features and history, oldest first; or the events and users of
    an event log. A new store is created for these features. A history longer
    than --limit keeps its newest events.

    The time grows with the events: docs/stores.md measured 7,000 users of
    1,000 events per second.

    If it is started again after a failure, it continues. Rows that cannot be
    loaded are kept in --rejected with their reasons.

    Example: muse store load --data demo_output/data --store lmdb:/tmp/store
    --limit 10000
    """
    with output.one_line_errors():
        from muse_tools.datasets.errors import DataError
        from muse_tools.stores import user_store

        server = _server(tls, target or LOCAL_SERVER, model, place.timeout)
        say = output.Reporter()

        def progress(report: LoadReport, total: int) -> None:
            rate = report.users / max(report.seconds, 1e-9)
            say(
                f"{report.rows:,} users of {total:,} {users.main.name} rows, "
                f"{report.events:,} events, {rate:,.0f} users/s"
            )

        # Find the users first: a failure then leaves no new store.
        users = user_store.Users.find(data, split.value)
        folder = rejected or data / f"{users.main.name}.rejected"
        with place.made(users.layout) as opened:
            report = user_store.load_table(opened, users, folder, progress)
            if not report.users + report.resumed:
                raise DataError(
                    "NO_USABLE_ROWS",
                    f"no user was loaded: all {report.rows} rows of "
                    f"{users.main.name} were rejected.",
                    f"see {output.short(folder)}, and `muse data inspect "
                    f"{data}`.",
                )
            if target is not None:
                _resolve_all(opened, server)
        if as_json:
            output.write_json(dataclasses.asdict(report), indent=None)
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
@grouped
def stats(
    place: _Store,
    as_json: JsonOption = False,
) -> None:
    """Show the number of users and events, the features and the size.

    Example: muse store stats --store lmdb:/tmp/store
    """
    with output.one_line_errors(), place.opened() as opened:
        found, layout = opened.stats(), opened.layout
        if as_json:
            kept = {
                **vars(found),
                "layout": {
                    **dataclasses.asdict(layout),
                    "digest": layout.digest,
                },
            }
            output.write_json(kept, indent=None)
            return
        output.write_lines(
            [
                f"{found.users} users, {found.events} events, {found.rows} "
                f"users with rows, {found.bytes:,} bytes",
                f"user features: {store_texts.named(layout.user)}",
                f"behavior features: {store_texts.named(layout.behaviors)}",
                f"times of events: {'kept' if layout.times else 'none'}",
                f"declaration: {store_texts.declaration(layout)}",
            ]
        )


@app.command()
@grouped
def get(
    place: _Store,
    user: User,
    last: Annotated[
        int, typer.Option(help="Newest events to show.", min=0)
    ] = 10,
    as_json: JsonOption = False,
) -> None:
    """Show a user's features and newest events, newest first.

    Example: muse store get --store lmdb:/tmp/store --user 1
    """
    with output.one_line_errors(), place.opened() as opened:
        found = opened.read(user)
        if found is None:
            raise ValueError(f"the store has no user {user}")
        store_texts.print_user(found, last, as_json)


@app.command()
@grouped
def append(
    place: _Store,
    user: User,
    items: Annotated[
        str, typer.Option(help="Item ids, comma-separated, oldest first.")
    ],
    behavior: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=VALUES of a behavior feature, one for each item; may "
            "be repeated. Features left out are missing."
        ),
    ] = None,
    user_feature: Annotated[
        list[str] | None,
        typer.Option(
            help="NAME=VALUE of a user feature to set, or several values "
            "for a list; may be repeated. If one is given, all others become "
            "missing."
        ),
    ] = None,
    times: Annotated[
        str | None,
        typer.Option(
            help="Seconds since 1970 of each item, if the store keeps times. "
            "[default: now]"
        ),
    ] = None,
) -> None:
    """Append events of a user, and set the user's features.

    Example: muse store append --store lmdb:/tmp/store --user 1 --items 11,12
    --behavior category=3,3
    """
    with output.one_line_errors():
        behaviors = _features("--behavior", behavior)
        features = _features("--user-feature", user_feature)
        item_ids = [one.strip() for one in items.split(",")]
        if not all(item_ids):
            raise typer.BadParameter(
                f"expected ids, separated by commas. Received: {items!r}",
                param_hint="--items",
            )
        with place.opened() as opened:
            layout = opened.layout
            at = parse_ids("--times", times) if times else None
            if layout.times and not times:
                at = [int(time.time())] * len(item_ids)
            opened.append(
                user,
                item_ids,
                store_texts.typed(layout.behaviors, behaviors),
                {
                    name: values if len(values) > 1 else values[0]
                    for name, values in store_texts.typed(
                        layout.user, features
                    ).items()
                }
                or None,
                at,
            )
            found = opened.read(user)
        count = 0 if found is None else len(found)
        sys.stdout.write(f"user {user}: {count} events\n")


def _features(option: str, given: list[str] | None) -> dict[str, list[str]]:
    """Parses texts NAME=VALUES."""
    found = {}
    for text in given or ():
        name, is_there, values = text.partition("=")
        found[name] = [value.strip() for value in values.split(",")]
        if not is_there:
            raise typer.BadParameter(
                f"expected NAME=VALUES. Received: {text!r}", param_hint=option
            )
    return found


@app.command()
@grouped
def migrate(
    place: _Store,
    to: Annotated[
        str, typer.Option(help="URL of the store to copy to, as --store.")
    ],
) -> None:
    """Copy the users of a store, of any format, into another store.

    A new store is created with the features of --store. If it is started again
    after a failure, it continues: users that --to already has are not changed.
    Append to --to only when it has finished. Rows are not copied; see muse
    store rows.

    Example: muse store migrate --store lmdb:/tmp/old --to lmdb:/tmp/store
    """
    with output.one_line_errors(), place.opened(old_format=True) as source:
        from serving.stores import copy_users

        total, say = source.stats().users, output.Reporter()
        with place.made(source.layout, to) as target:
            copied = copy_users(
                source,
                target,
                lambda done: say(f"{done:,} of {total:,} users"),
            )
        sys.stdout.write(f"{copied} users copied\n")


@app.command()
@grouped
def delete(
    place: _Store,
    user: Annotated[
        list[str] | None, typer.Option(help="User id; may be repeated.")
    ] = None,
    users_file: Annotated[
        pathlib.Path | None,
        typer.Option(help="Text file with a user id per line."),
    ] = None,
) -> None:
    """Delete users with all their data.

    A model server keeps their histories in its cache until other users need
    the space or the version is replaced.

    Example: muse store delete --store lmdb:/tmp/store --user 1 --user 2
    """
    with output.one_line_errors():
        if not user and users_file is None:
            raise typer.BadParameter("--user or --users-file is needed")
        with place.opened() as opened:
            users = set(map(opened.user_id, user or []))
            if users_file is not None:
                users |= _read_users(users_file, opened)
            found = opened.delete_many(users)
        sys.stdout.write(f"{found} of {len(users)} users deleted\n")


def _read_users(file: pathlib.Path, store: BehaviorStore) -> set[int]:
    users = set()
    lines = file.read_bytes().decode("utf-8-sig", "replace").splitlines()
    for number, line in enumerate(lines, 1):
        try:
            if line.strip():
                users.add(store.user_id(line.strip()))
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
@grouped
def rows(
    tls: TargetTls,
    place: _Store,
    target: TargetOption = LOCAL_SERVER,
    model: ModelOption = "muse",
) -> None:
    """Resolve every history to the rows of a served model's item table.

    A prefetch then sends rows instead of ids. Rows are used until the history
    grows or another item table is served. The time grows with the events.

    Example: muse store rows --store lmdb:/tmp/store --target 127.0.0.1:8500
    """
    with output.one_line_errors():
        server = _server(tls, target, model, place.timeout)
        with place.opened() as opened:
            _resolve_all(opened, server)


def _server(
    tls: TargetTls, target: str, model: str, timeout: float
) -> Connection:
    tls.made()  # Checks the options before the store is opened.
    return Connection(
        **dataclasses.asdict(tls), target=target, model=model, timeout=timeout
    )


def _resolve_all(opened: BehaviorStore, connection: Connection) -> None:
    from muse_tools.stores.user_store import resolve_rows

    with connection.opened() as server:
        done, behind = resolve_rows(opened, server)
    text = f"{done} users resolved to rows"
    if behind:
        text += f"; {behind} went on meanwhile"
    sys.stdout.write(text + "\n")
