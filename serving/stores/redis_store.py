"""Histories in a Redis server or a Redis Cluster: one store for a fleet."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np
import redis
from redis.exceptions import (
    AskError,
    ClusterError,
    MovedError,
    RedisClusterException,
    TryAgainError,
)

from serving.stores import base, records, redis_nodes, redis_scripts
from serving.stores.errors import (
    StoreCorruptError,
    StoreError,
    StoreMovedError,
    StoreUnavailableError,
)
from serving.stores.layout import RECORD_1, Layout, no_store, read_layout

_PIPELINE = 64
_Call = tuple[int, list[Any]]
_T = TypeVar("_T")
_UNAVAILABLE = (
    *(redis.ConnectionError, redis.TimeoutError),
    # Of a cluster: nodes are down, or keys are being moved.
    *(AskError, ClusterError, TryAgainError, RedisClusterException),
)


class RedisStore(base.BehaviorStore):
    """Histories in a Redis server (5 or newer) or a Redis Cluster.

    A history is one string: a header and then packed events. An append only
    sends the new events; the oldest ones are removed together once there are
    `slack` too many. Every change is an atomic script, so readers never see a
    partial change. Whether a change survives a crash of the server depends on
    the server's settings (`appendonly`, `appendfsync`).

    Calls are never repeated automatically, because an append that timed out
    may have been executed. Only what a node of a cluster rejects, because
    another one has the user now, is sent to that one.

    Args:
        url: `redis://[[user]:password@]host:port/db`, `rediss://` for TLS,
            `unix:///path`, or `redis+cluster://[[user]:password@]host:port`,
            `rediss+cluster://` with some nodes of a cluster, separated by
            commas. A password that the URL lacks is taken from the
            environment variable `MUSE_STORE_PASSWORD`.
        layout: features of a new store; None if the store must exist, which
            has its own layout.
        limit: maximum number of events of a user.
        timeout: seconds to connect, and for each answer.
        slack: events beyond the limit before the oldest are removed; a quarter
            of the limit by default.
        old_format: whether stores of formats 1 and 2 are opened, to copy them.

    Raises:
        ValueError: the limit is below 1, or Redis does not support the URL.
        StoreUnavailableError: the server does not answer.
        StoreError: there is no store and no layout, or another format.
    """

    def __init__(
        self,
        url: str,
        layout: Layout | None = None,
        *,
        limit: int = base.LIMIT,
        timeout: float = 1.0,
        slack: int | None = None,
        old_format: bool = False,
    ) -> None:
        super().__init__(limit)
        self._slack = max(1, limit // 4) if slack is None else slack
        self._where = hide_password(url)
        try:
            self._servers = redis_nodes.servers(url, timeout)
        except (redis.RedisError, RedisClusterException) as error:
            raise self._error(error) from error
        try:
            self._record = self._find_record(layout)
            self._codec = records.Codec(
                read_layout(
                    self._record, f"the store {self._where}", old_format
                )
            )
        except StoreError:
            self._servers.close()
            raise
        self._scripts = {
            name: self._servers.clients()[0].register_script(script)
            for name, script in redis_scripts.scripts(self._codec).items()
        }

    def _read(self, user_id: int, count: int) -> base.UserHistory | None:
        history, rows_key, *_ = self._servers.keys(user_id)
        size = self._codec.event_bytes
        tail = max(1, count * size)
        found, newest, resolved = self._header(
            user_id,
            lambda pipeline: pipeline.getrange(history, -tail, -1).get(
                rows_key
            ),
        )
        if found is None:
            return None
        header, kept = found
        number = min(kept, count)
        data = newest[len(newest) - number * size :]
        return self._history(
            header,
            header.start + kept,
            self._codec.unpack_events(user_id, data, history),
            resolved,
            rows_key,
        )

    def _append_many(self, users: list[base.CheckedUser]) -> None:
        """Appends events of one user after another, each atomically."""
        calls: list[_Call] = []
        for header, events in users:
            begin, data = self._packed(header, events)
            arguments = [begin, data, self.limit, self._slack]
            calls.append((header.user_id, arguments))
        self._run("APPEND", calls)

    def _set_rows(
        self, user_id: int, rows: np.ndarray, table_stamp: int, end: int | None
    ) -> bool:
        (found,) = self._header(user_id)
        if found is None:
            raise ValueError(f"user_id: {user_id} is not in the store")
        header, kept = found
        now = header.start + kept
        if end is not None and end != now:
            return False
        record = base.rows_record(
            user_id, rows, table_stamp, min(kept, self.limit), now
        )
        call = (user_id, [self._begin(user_id), now, record])
        return bool(self._run("SET_ROWS", [call])[0])

    def _trim(self, user_id: int, limit: int) -> None:
        self._run("TRIM", [(user_id, [self._begin(user_id), limit])])

    def _replace_many(
        self, users: list[base.CheckedUser], mark: base.Mark | None
    ) -> None:
        """Replaces one user after another, and writes the mark at the end."""
        calls: list[_Call] = [
            (header.user_id, self._packed(header, events[:, -self.limit :]))
            for header, events in users
        ]
        self._run("REPLACE", calls)
        if mark is not None:
            key = f"muse:mark:{mark.name}"
            self._at(key, lambda server: server.set(key, mark.text))

    def _delete_many(self, user_ids: list[int]) -> int:
        calls: list[_Call] = [(user, [self._begin(user)]) for user in user_ids]
        return sum(map(int, self._run("DELETE", calls)))

    def read_mark(self, name: str) -> str | None:
        """See `BehaviorStore.read_mark`."""
        key = f"muse:mark:{name}"
        found = self._at(key, lambda server: server.get(key))
        return None if found is None else found.decode()

    def user_ids(self) -> Iterator[int]:
        """See `BehaviorStore.user_ids`."""
        servers, seen = self._servers, set()
        with self._errors():
            for server in servers.clients():
                for key in server.scan_iter(servers.pattern, count=4096):
                    match = servers.user.fullmatch(key)
                    if match and key not in seen:
                        seen.add(key)
                        yield int(match[1])

    def stats(self) -> base.StoreStats:
        """See `BehaviorStore.stats`. `bytes` is the servers' used memory."""
        counts = ("users", "events", "rows")
        found = self._at_each(
            [totals for totals, _ in self._servers.shared],
            lambda pipeline, key: pipeline.hmget(key, *counts),
        )
        users, kept, rows = (
            sum(int(value or 0) for value in values)
            for values in zip(*found, strict=True)
        )
        with self._errors():
            memory = sum(
                int(server.info("memory")["used_memory"])
                for server in self._servers.clients()
            )
        return base.StoreStats(users, kept, rows, memory, self.limit)

    def remove(self) -> None:
        """Deletes the record of the layout."""
        self._at_each(
            [record for _, record in self._servers.shared],
            lambda pipeline, key: pipeline.delete(key),
        )

    def close(self) -> None:
        """See `BehaviorStore.close`."""
        self._servers.close()

    def _find_record(self, layout: Layout | None) -> bytes:
        """Returns the stored record of the layout, or creates it.

        The first group's record is that of the store. A writer also completes
        those of the other groups, which another one may have left out.
        """
        (totals, first), *others = self._servers.shared

        def find(server: Any) -> list[Any]:
            with server.pipeline() as pipeline:
                return list(pipeline.get(first).exists(totals).execute())

        found, has_users = self._at(first, find)
        if found is None and has_users:
            return RECORD_1
        if found is None and layout is not None:
            # Another process may create it at the same time.
            record = layout.record()
            made = self._at(
                first, lambda server: server.set(first, record, nx=True)
            )
            self.is_new = bool(made)
            found = self._at(first, lambda server: server.get(first))
        if found is None:
            raise no_store(self._where)
        if layout is not None:
            self._at_each(
                [key for _, key in others],
                lambda pipeline, key: pipeline.set(key, found, nx=True),
            )
        return bytes(found)

    def _at(self, key: str, work: Callable[[Any], _T]) -> _T:
        """Returns the result of `work`, called with a key's server."""
        with self._errors():
            return self._moving(lambda: work(self._servers.client(key)))

    def _at_each(
        self, keys: list[str], ask: Callable[[Any, str], Any]
    ) -> list[Any]:
        """Returns the answer for each key, in one round trip per server."""
        with self._errors():
            answers = self._sent(keys, keys, ask)
            for answer in answers:
                if isinstance(answer, Exception):
                    raise answer
        return answers

    def _moving(self, work: Callable[[], _T]) -> _T:
        """Does it again if another node of the cluster has the keys now."""
        try:
            return work()
        except MovedError:
            self._servers.refresh()
            return work()

    def _sent(
        self,
        keys: Sequence[str],
        calls: Sequence[Any],
        ask: Callable[[Any, Any], Any],
    ) -> list[Any]:
        """Returns answers or errors of calls, one round trip per server.

        `ask` adds a call, whose key is given, to a pipeline.
        """
        answers: list[Any] = [None] * len(calls)
        waiting: Sequence[int] = range(len(calls))
        for _ in range(2):  # Again where another node has the keys now.
            by_server: dict[Any, list[int]] = {}
            for place in waiting:
                server = self._servers.client(keys[place])
                by_server.setdefault(server, []).append(place)
            for server, places in by_server.items():
                with server.pipeline(transaction=False) as pipeline:
                    for place in places:
                        ask(pipeline, calls[place])
                    found = pipeline.execute(raise_on_error=False)
                for place, answer in zip(places, found, strict=True):
                    answers[place] = answer
            waiting = [
                place
                for place in waiting
                if isinstance(answers[place], MovedError)
            ]
            if not waiting:
                break
            self._servers.refresh()
        return answers

    def _header(
        self, user_id: int, ask: Callable[[Any], Any] = lambda pipeline: None
    ) -> tuple[Any, ...]:
        """Reads header and number of events in one round trip with `ask`.

        The other answers follow. The first one is None for an unknown user.
        """
        key, _, _, record_key = self._servers.keys(user_id)
        length = self._codec.header_bytes

        def read() -> list[Any]:
            with self._servers.client(key).pipeline() as pipeline:
                pipeline.get(record_key).getrange(key, 0, length - 1)
                pipeline.strlen(key)
                ask(pipeline)
                return list(pipeline.execute())

        with self._errors(user_id):
            record, begin, size, *answers = self._moving(read)
        if (record or RECORD_1) != self._record:
            raise self._moved()
        if not size:
            return None, *answers
        header = self._codec.unpack_header(user_id, begin, key)
        kept, rest = divmod(size - length, self._codec.event_bytes)
        if rest:
            raise StoreCorruptError(
                user_id, key, f"{size} bytes are not a header and whole events"
            )
        return (header, kept), *answers

    def _run(self, name: str, calls: list[_Call]) -> list[Any]:
        """Runs a script for each user, several dozen in one round trip."""
        script = self._scripts[name]

        def ask(pipeline: Any, call: _Call) -> None:
            user, arguments = call
            script(
                self._servers.keys(user),
                [*arguments, self._record],
                client=pipeline,
            )

        results: list[Any] = []
        waiting = iter(calls)
        while chunk := list(itertools.islice(waiting, _PIPELINE)):
            user_id = chunk[0][0] if len(chunk) == 1 else None
            keys = [self._servers.keys(user)[0] for user, _ in chunk]
            with self._errors(user_id):
                answers = self._sent(keys, chunk, ask)
            for (user, _), answer in zip(chunk, answers, strict=True):
                if isinstance(answer, Exception):
                    with self._errors(user):
                        raise answer
            results += answers
        return results

    @contextlib.contextmanager
    def _errors(self, user_id: int | None = None) -> Iterator[None]:
        """Converts errors of the Redis client to those of stores."""
        try:
            yield
        except (redis.RedisError, RedisClusterException) as error:
            if isinstance(error, _UNAVAILABLE):
                self._servers.refresh()
            raise self._error(error, user_id) from error

    def _error(
        self, error: Exception, user_id: int | None = None
    ) -> StoreError:
        text = str(error)
        if isinstance(error, _UNAVAILABLE):
            return StoreUnavailableError(
                f"the store {self._where} does not answer: {text} (is this "
                "Redis server running; are host, port and password right?)"
            )
        if redis_scripts.MOVED in text:
            return self._moved()
        if user_id is not None and (
            "WRONGTYPE" in text or redis_scripts.CORRUPT in text
        ):
            key = self._servers.keys(user_id)[0]
            return StoreCorruptError(user_id, key, "it is not a history")
        return StoreError(f"the store {self._where}: {text}")

    def _moved(self) -> StoreMovedError:
        return StoreMovedError(
            f"the store {self._where} was removed or replaced; open it again"
        )

    def _packed(self, header: records.Header, events: np.ndarray) -> list[Any]:
        return [
            self._codec.pack_header(header),
            self._codec.pack_events(header.user_id, events),
        ]

    def _begin(self, user_id: int) -> bytes:
        """Returns the first bytes of every header of a user."""
        return self._codec.pack_header(records.Header(user_id))[:16]


def hide_password(url: str) -> str:
    """Returns a URL without its password, for messages."""
    return re.sub(r"//[^@/]*@", "//***@", url)
