"""Histories in a Redis server: one store for a fleet."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from serving.stores import base, records, redis_scripts
from serving.stores.errors import (
    StoreCorruptError,
    StoreError,
    StoreMovedError,
    StoreUnavailableError,
)
from serving.stores.layout import RECORD_1, Layout, no_store, read_layout

_PIPELINE = 64
_TOTALS = "muse:totals"
_FORMAT = "muse:format"
_Call = tuple[int, list[Any]]
_KEY = re.compile(rb"muse:\{(-?\d+)\}:history")


class RedisStore(base.BehaviorStore):
    """Histories in a Redis server (5 or newer; not a cluster).

    A history is one string: a header and then packed events. An append only
    sends the new events; the oldest ones are removed together once there are
    `slack` too many. Every change is an atomic script, so readers never see a
    partial change. Whether a change survives a crash of the server depends on
    the server's settings (`appendonly`, `appendfsync`).

    Calls are never repeated automatically, because an append that timed out
    may have been executed.

    Args:
        url: `redis://[[user]:password@]host:port/db`, `rediss://` for TLS,
            `unix:///path`.
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
        # One attempt only: the caller decides about retries.
        self._redis: Any = redis.Redis.from_url(
            url,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
        )
        try:
            self._record = self._find_record(layout)
            self._codec = records.Codec(
                read_layout(
                    self._record, f"the store {self._where}", old_format
                )
            )
        except StoreError:
            self._redis.close()
            raise
        self._scripts = {
            name: self._redis.register_script(script)
            for name, script in redis_scripts.scripts(self._codec).items()
        }

    def _read(self, user_id: int, count: int) -> base.UserHistory | None:
        history, rows_key, *_ = _keys(user_id)
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
            with self._errors():
                self._redis.set(f"muse:mark:{mark.name}", mark.text)

    def _delete_many(self, user_ids: list[int]) -> int:
        calls: list[_Call] = [(user, [self._begin(user)]) for user in user_ids]
        return sum(map(int, self._run("DELETE", calls)))

    def read_mark(self, name: str) -> str | None:
        """See `BehaviorStore.read_mark`."""
        with self._errors():
            found = self._redis.get(f"muse:mark:{name}")
        return None if found is None else found.decode()

    def user_ids(self) -> Iterator[int]:
        """See `BehaviorStore.user_ids`."""
        with self._errors():
            seen = set()
            for key in self._redis.scan_iter("muse:{*}:history", count=4096):
                match = _KEY.fullmatch(key)
                if match and key not in seen:
                    seen.add(key)
                    yield int(match[1])

    def stats(self) -> base.StoreStats:
        """See `BehaviorStore.stats`. `bytes` is the server's used memory."""
        with self._errors(), self._redis.pipeline() as pipeline:
            pipeline.hmget(_TOTALS, "users", "events", "rows")
            pipeline.info("memory")
            totals, memory = pipeline.execute()
        users, kept, rows = (int(value or 0) for value in totals)
        return base.StoreStats(
            users, kept, rows, int(memory["used_memory"]), self.limit
        )

    def remove(self) -> None:
        """Deletes the record of the layout."""
        with self._errors():
            self._redis.delete(_FORMAT)

    def close(self) -> None:
        """See `BehaviorStore.close`."""
        self._redis.close()

    def _find_record(self, layout: Layout | None) -> bytes:
        """Returns the stored record of the layout, or creates it."""
        with self._errors():
            with self._redis.pipeline() as pipeline:
                pipeline.get(_FORMAT).exists(_TOTALS)
                found, has_users = pipeline.execute()
            if found is None and has_users:
                return RECORD_1
            if found is None and layout is not None:
                # Another process may create it at the same time.
                made = self._redis.set(_FORMAT, layout.record(), nx=True)
                self.is_new = bool(made)
                found = self._redis.get(_FORMAT)
        if found is None:
            raise no_store(self._where)
        return bytes(found)

    def _header(
        self, user_id: int, ask: Callable[[Any], Any] = lambda pipeline: None
    ) -> tuple[Any, ...]:
        """Reads header and number of events in one round trip with `ask`.

        The other answers follow. The first one is None for an unknown user.
        """
        key, length = _keys(user_id)[0], self._codec.header_bytes
        with self._errors(user_id), self._redis.pipeline() as pipeline:
            pipeline.get(_FORMAT).getrange(key, 0, length - 1).strlen(key)
            ask(pipeline)
            record, begin, size, *answers = pipeline.execute()
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
        results: list[Any] = []
        waiting = iter(calls)
        while chunk := list(itertools.islice(waiting, _PIPELINE)):
            user_id = chunk[0][0] if len(chunk) == 1 else None
            with self._errors(user_id):
                with self._redis.pipeline(transaction=False) as pipeline:
                    for user, arguments in chunk:
                        script(
                            _keys(user),
                            [*arguments, self._record],
                            client=pipeline,
                        )
                    answers = pipeline.execute(raise_on_error=False)
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
        except redis.ResponseError as error:
            text = str(error)
            if redis_scripts.MOVED in text:
                raise self._moved() from error
            if user_id is not None and (
                "WRONGTYPE" in text or redis_scripts.CORRUPT in text
            ):
                raise StoreCorruptError(
                    user_id, _keys(user_id)[0], "it is not a history"
                ) from error
            raise StoreError(f"the store {self._where}: {error}") from error
        except (redis.ConnectionError, redis.TimeoutError) as error:
            raise StoreUnavailableError(
                f"the store {self._where} does not answer: {error} (is this "
                "Redis server running; are host, port and password right?)"
            ) from error
        except redis.RedisError as error:
            raise StoreError(f"the store {self._where}: {error}") from error

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


def _keys(user_id: int) -> tuple[str, ...]:
    """Returns the keys for a user's history and rows, and for the store."""
    name = f"muse:{{{user_id}}}"
    return f"{name}:history", f"{name}:rows", _TOTALS, _FORMAT
