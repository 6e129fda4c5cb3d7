"""Histories in a Redis server: one store for a fleet."""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from serving.stores import base, events, records, redis_scripts
from serving.stores.errors import (
    StoreCorruptError,
    StoreError,
    StoreUnavailableError,
)
from serving.stores.lmdb_store import check_rows

__all__ = ["RedisStore", "hide_password"]

_PIPELINE = 64
_TOTALS = "muse:totals"
_KEY = re.compile(rb"muse:\{(-?\d+)\}:history")


class RedisStore(base.BehaviorStore):
    """Histories in a Redis server (5 or newer; not a cluster).

    A history is one string: a header and then packed events. An append sends
    the new events only; the oldest are cut off in one go once there are
    `slack` too many. Every change is a script that the server runs all at
    once, so no reader sees half of it. Whether a change survives a crash of
    the server is the server's setting (`appendonly`, `appendfsync`).

    Nothing is sent again on its own: an append that timed out may have been
    done.

    Args:
        url: `redis://[[user]:password@]host:port/db`, `rediss://` for TLS,
            `unix:///path`.
        limit: events kept of a user.
        timeout: seconds to connect, and for each answer.
        slack: events beyond the limit before the oldest are cut off; a
            quarter of the limit by default.

    Raises:
        ValueError: a limit below 1, or a URL that Redis does not know.
    """

    def __init__(
        self,
        url: str,
        *,
        limit: int = base.LIMIT,
        timeout: float = 1.0,
        slack: int | None = None,
    ) -> None:
        if limit < 1:
            raise ValueError(f"limit: expected 1 or more. Received: {limit}")
        self.limit = limit
        self._slack = max(1, limit // 4) if slack is None else slack
        self._where = hide_password(url)
        # One try: how often to ask again is for the caller to say.
        self._redis: Any = redis.Redis.from_url(
            url,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
        )
        self._scripts = {
            name: self._redis.register_script(getattr(redis_scripts, name))
            for name in (
                "APPEND",
                "DELETE",
                "REPLACE",
                "SET_PROFILE",
                "SET_ROWS",
                "TRIM",
            )
        }

    def read(
        self, user_id: int, limit: int | None = None
    ) -> base.UserHistory | None:
        """See `BehaviorStore.read`."""
        user_id = records.check_user_id(user_id)
        wanted = base.check_limit(limit, self.limit)
        history, rows_key, _ = _keys(user_id)
        tail = max(1, wanted * events.EVENT_BYTES)
        with self._errors(user_id), self._redis.pipeline() as pipeline:
            pipeline.getrange(history, 0, records.HEADER_BYTES - 1)
            pipeline.strlen(history)
            pipeline.getrange(history, -tail, -1)
            pipeline.get(rows_key)
            begin, size, newest, resolved = pipeline.execute()
        if not size:
            return None
        header, count = _parse(user_id, history, begin, size)
        number = min(count, wanted)
        data = newest[len(newest) - number * events.EVENT_BYTES :]
        items, categories = events.unpack_events(user_id, data, history)
        end = header.start + count
        rows, stamp = None, None
        if resolved is not None:
            record = records.Rows.unpack(user_id, resolved, rows_key)
            rows = record.newest(end, number)
            stamp = None if rows is None else record.table_stamp
        return base.UserHistory(
            user_id,
            header.profile_array(),
            items[::-1],
            categories[::-1],
            None if rows is None else rows[::-1],
            stamp,
            end,
        )

    def append_many(self, events_: Iterable[base.Events]) -> None:
        """See `BehaviorStore.append_many`; whole users, one after another."""
        calls = []
        for user, items, categories in events_:
            user_id = records.check_user_id(user)
            data = events.pack_events(
                user_id, *events.checked_events(items, categories)
            )
            header = records.Header(user_id).pack()
            calls.append((user_id, [header, data, self.limit, self._slack]))
        self._run("APPEND", calls)

    def set_profile(
        self, user_id: int, profile: Sequence[int] | np.ndarray
    ) -> None:
        """See `BehaviorStore.set_profile`."""
        user_id = records.check_user_id(user_id)
        header = records.Header(user_id, 0, records.profile_of(profile))
        self._run("SET_PROFILE", [(user_id, [header.pack()])])

    def set_rows(
        self,
        user_id: int,
        rows: Sequence[int] | np.ndarray,
        table_stamp: int,
        *,
        end: int | None = None,
    ) -> bool:
        """See `BehaviorStore.set_rows`."""
        user_id = records.check_user_id(user_id)
        values = np.asarray(rows, np.int32)
        history = _keys(user_id)[0]
        with self._errors(user_id), self._redis.pipeline() as pipeline:
            pipeline.getrange(history, 0, records.HEADER_BYTES - 1)
            pipeline.strlen(history)
            begin, size = pipeline.execute()
        if not size:
            raise ValueError(f"user_id: {user_id} is not in the store")
        header, count = _parse(user_id, history, begin, size)
        now = header.start + count
        if end is not None and end != now:
            return False
        number = min(count, self.limit)
        check_rows(values, number)
        record = records.Rows(user_id, now - number, now, table_stamp, values)
        (done,) = self._run(
            "SET_ROWS",
            [(user_id, [header.pack()[:16], now, record.pack()])],
        )
        return bool(done)

    def trim(self, user_id: int, limit: int) -> None:
        """See `BehaviorStore.trim`."""
        user_id = records.check_user_id(user_id)
        if limit < 0:
            raise ValueError(f"limit: expected 0 or more. Received: {limit}")
        begin = records.Header(user_id).pack()[:16]
        self._run("TRIM", [(user_id, [begin, limit])])

    def replace_many(
        self,
        users: Sequence[base.UserRecord],
        mark: base.Mark | None = None,
    ) -> None:
        """See `BehaviorStore.replace_many`; the mark is written last."""
        calls = []
        for user in users:
            user_id = records.check_user_id(user.user_id)
            profile = user.profile
            header = records.Header(
                user_id,
                0,
                None if profile is None else records.profile_of(profile),
            )
            items, categories = events.checked_events(
                user.item_ids, user.category_ids
            )
            data = events.pack_events(
                user_id, items[-self.limit :], categories[-self.limit :]
            )
            calls.append((user_id, [header.pack(), data]))
        self._run("REPLACE", calls)
        if mark is not None:
            with self._errors():
                self._redis.set(f"muse:mark:{mark.name}", mark.text)

    def delete_many(self, user_ids: Iterable[int]) -> int:
        """See `BehaviorStore.delete_many`; one user after another."""
        users = {records.check_user_id(user_id) for user_id in user_ids}
        calls = [
            (user_id, [records.Header(user_id).pack()[:16]])
            for user_id in sorted(users)
        ]
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
        """See `BehaviorStore.stats`; bytes are the server's used memory."""
        with self._errors(), self._redis.pipeline() as pipeline:
            pipeline.hmget(_TOTALS, "users", "events", "rows")
            pipeline.info("memory")
            totals, memory = pipeline.execute()
        users, kept, rows = (int(value or 0) for value in totals)
        return base.StoreStats(
            users, kept, rows, int(memory["used_memory"]), self.limit
        )

    def close(self) -> None:
        """See `BehaviorStore.close`."""
        self._redis.close()

    def _run(self, name: str, calls: list[tuple[int, list[Any]]]) -> list[Any]:
        """Runs a script for each user, some dozens in one round trip."""
        script = self._scripts[name]
        results: list[Any] = []
        waiting = iter(calls)
        while chunk := list(itertools.islice(waiting, _PIPELINE)):
            user_id = chunk[0][0] if len(chunk) == 1 else None
            with self._errors(user_id):
                with self._redis.pipeline(transaction=False) as pipeline:
                    for user, arguments in chunk:
                        script(_keys(user), arguments, client=pipeline)
                    answers = pipeline.execute(raise_on_error=False)
            for (user, _), answer in zip(chunk, answers, strict=True):
                if isinstance(answer, Exception):
                    with self._errors(user):
                        raise answer
            results += answers
        return results

    @contextlib.contextmanager
    def _errors(self, user_id: int | None = None) -> Iterator[None]:
        """Turns errors of the Redis client into those of stores."""
        try:
            yield
        except redis.ResponseError as error:
            text = str(error)
            if user_id is not None and (
                "WRONGTYPE" in text or redis_scripts.CORRUPT in text
            ):
                raise StoreCorruptError(
                    user_id, _keys(user_id)[0], "it is not a history"
                ) from error
            raise StoreError(f"the store {self._where}: {error}") from error
        except (redis.ConnectionError, redis.TimeoutError) as error:
            raise StoreUnavailableError(
                f"the store {self._where} does not answer: {error}"
            ) from error
        except redis.RedisError as error:
            raise StoreError(f"the store {self._where}: {error}") from error


def hide_password(url: str) -> str:
    """Returns a URL as messages may show it."""
    return re.sub(r"//[^@/]*@", "//***@", url)


def _keys(user_id: int) -> tuple[str, str, str]:
    """Returns the names of a user's history and rows, and of the totals."""
    name = f"muse:{{{user_id}}}"
    return f"{name}:history", f"{name}:rows", _TOTALS


def _parse(
    user_id: int, key: str, begin: bytes, size: int
) -> tuple[records.Header, int]:
    """Returns the header and the number of events."""
    header = records.Header.unpack(user_id, begin, key)
    count, rest = divmod(size - records.HEADER_BYTES, events.EVENT_BYTES)
    if rest:
        raise StoreCorruptError(
            user_id,
            key,
            f"{size} bytes are not a header and whole events",
        )
    return header, count
