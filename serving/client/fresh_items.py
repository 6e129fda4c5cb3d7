"""Keeps the fresh items of a file stored in a served model."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from serving.client.client import MuseClient
from serving.client.declared_inputs import SignatureInputs
from serving.client.errors import (
    CallError,
    InvalidArgumentError,
    MuseClientError,
    SignatureError,
)
from serving.client.item_file import check_exists, read_item_file

_SIGNATURE = "upsert_items"
_Probe = tuple[dict[str, Any], int]
"""Arguments that sent an item, and the id of the load that stored it."""


@dataclasses.dataclass(frozen=True)
class PushReport:
    """Result of a push.

    Attributes:
        version: model version that stored the items.
        items: items of the file.
        stored: items that took a slot; the others were already stored.
        superseded: rows that a later row with the same id replaces.
        rejected: number of rows by reason.
        used: slots taken since the version was loaded.
        capacity: slots of the version.
    """

    version: int
    items: int
    stored: int
    superseded: int
    rejected: Mapping[str, int]
    used: int
    capacity: int


class FreshItems:
    """Sends the items of a Parquet file to a server.

    The file is the store: a server loses its fresh items when it stops or loads
    another version, and then receives them again from the file. To append,
    write a new file and rename it to the old name. An item that a server
    already has takes no slot, so a push may be repeated.

    Args:
        path: Parquet file; see `read_item_file` for its columns.

    Example:
        >>> items = FreshItems("fresh.parquet")
        >>> with MuseClient("127.0.0.1:8500") as client:  # doctest: +SKIP
        ...     items.push(client).stored
        12
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = pathlib.Path(path)

    def push(self, client: MuseClient) -> PushReport:
        """Sends all items of the file.

        Raises:
            FileNotFoundError: the file does not exist.
            ValueError: the file has a wrong format.
            SignatureError: the model does not accept fresh items.
            InvalidArgumentError: the items exceed the free slots.
            CallError: a call failed. Items sent before it are stored.
        """
        return self._push(client)[0]

    def follow(
        self,
        client: MuseClient,
        *,
        poll: float = 0.5,
        stop: threading.Event | None = None,
        on_error: Callable[[Exception], None] | None = None,
    ) -> Iterator[PushReport]:
        """Sends the items now, and again whenever the server lacks them.

        The server lacks them if the file changed, if another version is served,
        or if the server was restarted. The latter shows in the `load_id` of
        the answer when one item is sent again.

        Args:
            client: client of the server.
            poll: seconds between two checks.
            stop: ends the iteration when set.
            on_error: called with the error of a failed push. The push is
                repeated at the next check; if the server rejected the items,
                only after the file or the version changed.

        Yields:
            A report of each push.
        """
        stop = stop or threading.Event()
        sent: tuple[object, int] | None = None
        probe: _Probe | None = None
        while not stop.is_set():
            try:
                now = (self._stamp(), serving_version(client))
                if now != sent or (probe and _is_forgotten(client, probe)):
                    try:
                        report, probe = self._push(client)
                    except (InvalidArgumentError, SignatureError):
                        sent, probe = now, None
                        raise
                    sent = now
                    yield report
            except (MuseClientError, OSError, ValueError) as error:
                if on_error is not None:
                    on_error(error)
            stop.wait(poll)

    def _push(self, client: MuseClient) -> tuple[PushReport, _Probe | None]:
        """Sends all items; also returns the arguments that detect a loss."""
        check_exists(self.path)
        version = serving_version(client)
        found = read_item_file(self.path, *_served_items(client))
        counts: dict[str, int] = dict.fromkeys(
            ("stored", "used", "capacity"), 0
        )
        probe = None
        if len(found.item_ids):
            result = client.upsert_items(
                found.item_ids, found.embedding, found.features
            )
            counts["stored"] = int(result.stored.sum())
            counts |= {"used": result.used, "capacity": result.capacity}
            first = {
                "item_ids": found.item_ids[:1],
                "embedding": found.embedding[:1],
                "features": {k: v[:1] for k, v in found.features.items()},
            }
            probe = (first, result.load_id)
        report = PushReport(
            version=version,
            items=len(found.item_ids),
            superseded=found.superseded,
            rejected=found.rejected,
            **counts,
        )
        return report, probe

    def _stamp(self) -> tuple[int, int, int]:
        """Returns values that change when the file does."""
        stat = self.path.stat()
        return stat.st_mtime_ns, stat.st_size, stat.st_ino


def serving_version(client: MuseClient) -> int:
    """Returns the newest available version, or raises `CallError`."""
    versions = [s.version for s in client.status() if s.state == "AVAILABLE"]
    if not versions:
        raise CallError("UNAVAILABLE", "no version of the model is available")
    return max(versions)


def _served_items(client: MuseClient) -> tuple[int, dict[str, str]]:
    """Returns the vectors' width and the types of items' features."""
    signatures = client.metadata().signatures
    if _SIGNATURE not in signatures:
        raise SignatureError(
            "FAILED_PRECONDITION",
            "the model does not accept fresh items; export it with "
            "`export.fresh_items` above 0",
        )
    specs = signatures[_SIGNATURE].inputs
    names = SignatureInputs(specs).names("features", [])
    shape = signatures["embed"].outputs["embedding"].shape or (0,)
    types = {name: specs[key].dtype for name, key in names.items()}
    return int(shape[-1]), types


def _is_forgotten(client: MuseClient, probe: _Probe) -> bool:
    """Sends an item again to see whether the server still has all items.

    A new `load_id` means that it does not. `stored` does not tell: the item
    may be part of the export, or another process may have sent it.
    """
    item, load_id = probe
    return client.upsert_items(**item).load_id != load_id
