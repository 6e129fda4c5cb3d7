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
    StoreUnavailableError,
)

_PIPELINE = 64
_TOTALS = "muse:totals"
_Call = tuple[int, list[Any]]
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
        super().__init__(limit)
        self._slack = max(1, limit // 4) if slack is None else slack
        self._where = hide_password(url)
        # One attempt: the caller decides about retries.
        self._redis: Any = redis.Redis.from_url(
            url,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            retry=Retry(NoBackoff(), 0),
        )
        self._scripts = {
            name: self._redis.register_script(script)
            for name, script in redis_scripts.SCRIPTS.items()
        }

    def _read(self, user_id: int, count: int) -> base.UserHistory | None:
        history, rows_key, _ = _keys(user_id)
        tail = max(1, count * records.EVENT_BYTES)
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
        data = newest[len(newest) - number * records.EVENT_BYTES :]
        return base.history_of(
            header,
            header.start + kept,
            records.unpack_events(user_id, data, history),
            resolved,
            rows_key,
        )

    def _append_many(self, users: list[base.CheckedEvents]) -> None:
        """Appends events of whole users, one after another."""
        calls: list[_Call] = []
        for user_id, items, categories in users:
            header = records.Header(user_id).pack()
            data = records.pack_events(user_id, items, categories)
            calls.append((user_id, [header, data, self.limit, self._slack]))
        self._run("APPEND", calls)

    def _set_profile(self, user_id: int, profile: tuple[int, ...]) -> None:
        header = records.Header(user_id, 0, profile)
        self._run("SET_PROFILE", [(user_id, [header.pack()])])

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
        call = (user_id, [_begin(user_id), now, record])
        return bool(self._run("SET_ROWS", [call])[0])

    def _trim(self, user_id: int, limit: int) -> None:
        self._run("TRIM", [(user_id, [_begin(user_id), limit])])

    def _replace_many(
        self, users: list[base.CheckedUser], mark: base.Mark | None
    ) -> None:
        """Replaces one user after another, and writes the mark last."""
        calls: list[_Call] = []
        for header, items, categories in users:
            newest = items[-self.limit :], categories[-self.limit :]
            data = records.pack_events(header.user_id, *newest)
            calls.append((header.user_id, [header.pack(), data]))
        self._run("REPLACE", calls)
        if mark is not None:
            with self._errors():
                self._redis.set(f"muse:mark:{mark.name}", mark.text)

    def _delete_many(self, user_ids: list[int]) -> int:
        calls: list[_Call] = [(user, [_begin(user)]) for user in user_ids]
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

    def _header(
        self, user_id: int, ask: Callable[[Any], Any] = lambda pipeline: None
    ) -> tuple[Any, ...]:
        """Reads header and number of events in one round trip with `ask`.

        The further answers follow; the first is None for an unknown user.
        """
        key = _keys(user_id)[0]
        with self._errors(user_id), self._redis.pipeline() as pipeline:
            pipeline.getrange(key, 0, records.HEADER_BYTES - 1).strlen(key)
            ask(pipeline)
            begin, size, *answers = pipeline.execute()
        if not size:
            return None, *answers
        header = records.Header.unpack(user_id, begin, key)
        kept, rest = divmod(size - records.HEADER_BYTES, records.EVENT_BYTES)
        if rest:
            raise StoreCorruptError(
                user_id, key, f"{size} bytes are not a header and whole events"
            )
        return (header, kept), *answers

    def _run(self, name: str, calls: list[_Call]) -> list[Any]:
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
                f"the store {self._where} does not answer: {error} (is this "
                "Redis server running; are host, port and password right?)"
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


def _begin(user_id: int) -> bytes:
    """Returns the bytes that every header of a user begins with."""
    return records.Header(user_id).pack()[:16]
