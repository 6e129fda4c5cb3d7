"""The Redis servers of a store: one, or the primaries of a Redis Cluster."""

from __future__ import annotations

import contextlib
import os
import re
import zlib
from collections.abc import Sequence
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import RedisClusterException
from redis.retry import Retry

CLUSTER = ("redis+cluster://", "rediss+cluster://")
"""Beginnings of the URLs of a Redis Cluster."""

GROUPS = 1024
"""Groups of users in a cluster."""

PASSWORD = "MUSE_STORE_PASSWORD"  # noqa: S105
"""Environment variable with the password, if the URL has none."""


class OneServer:
    """A single server. The store's totals and layout have one key each."""

    pattern, user = "muse:{*}:history", re.compile(rb"muse:\{(-?\d+)\}:history")
    shared: Sequence[tuple[str, str]] = [("muse:totals", "muse:format")]
    """The keys of totals and layout, of each group of users."""

    def __init__(self, url: str, timeout: float) -> None:
        self._client: Any = redis.Redis.from_url(url, **_options(timeout))

    def keys(self, user_id: int) -> tuple[str, str, str, str]:
        """Returns the keys of history, rows, totals and layout of a user."""
        name = f"muse:{{{user_id}}}"
        return f"{name}:history", f"{name}:rows", *self.shared[0]

    def client(self, key: str) -> Any:
        """Returns the client of the server that has a key."""
        del key
        return self._client

    def clients(self) -> list[Any]:
        """Returns the clients of all servers with users."""
        return [self._client]

    def refresh(self) -> None:
        """Finds out again which server has which keys."""

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()


class Cluster(OneServer):
    """A Redis Cluster.

    A script may only use keys of one slot. Users are therefore in groups, each
    with a tag in its keys and with totals and layout of its own.

    Calls go to the clients of single nodes, because those of redis-py for a
    cluster repeat a change whose answer was lost.
    """

    pattern = "muse:{g*}:*:history"
    user = re.compile(rb"muse:\{g\d+\}:(-?\d+):history")
    shared = [
        (f"muse:{{g{group}}}:totals", f"muse:{{g{group}}}:format")
        for group in range(GROUPS)
    ]

    def __init__(self, url: str, timeout: float) -> None:
        first, *others = cluster_urls(url)
        nodes = [redis.connection.parse_url(other) for other in others]
        self._client = RedisCluster.from_url(
            first,
            startup_nodes=[ClusterNode(n["host"], n["port"]) for n in nodes],
            # What the cluster announces may be unreachable for a while.
            dynamic_startup_nodes=False,
            # Users of the other nodes are there if one is lost.
            require_full_coverage=False,
            **_options(timeout),
        )

    def keys(self, user_id: int) -> tuple[str, str, str, str]:
        """See `OneServer.keys`."""
        group = zlib.crc32(b"%d" % user_id) % GROUPS
        name = f"muse:{{g{group}}}:{user_id}"
        return f"{name}:history", f"{name}:rows", *self.shared[group]

    def client(self, key: str) -> Any:
        """See `OneServer.client`."""
        node = self._client.get_node_from_key(key)
        return self._client.get_redis_connection(node)

    def clients(self) -> list[Any]:
        """See `OneServer.clients`."""
        return [
            self._client.get_redis_connection(node)
            for node in self._client.get_primaries()
        ]

    def refresh(self) -> None:
        """See `OneServer.refresh`. Without an answer, nothing changes."""
        with contextlib.suppress(redis.RedisError, RedisClusterException):
            self._client.nodes_manager.initialize()


def cluster_urls(url: str) -> list[str]:
    """Returns a URL for each node that the URL of a cluster names.

    They are separated by commas; all have the user, password and options of the
    URL.
    """
    scheme, rest = url.split("+cluster://", 1)
    place, slash, options = rest.partition("/")
    login, at, hosts = place.rpartition("@")
    return [
        f"{scheme}://{login}{at}{host}{slash}{options}"
        for host in hosts.split(",")
    ]


def servers(url: str, timeout: float) -> OneServer:
    """Returns the servers of a URL. A cluster must answer.

    Raises `redis.RedisError` or `RedisClusterException`.
    """
    return (Cluster if url.startswith(CLUSTER) else OneServer)(url, timeout)


def _options(timeout: float) -> dict[str, Any]:
    return {
        "password": os.environ.get(PASSWORD),
        "socket_timeout": timeout,
        "socket_connect_timeout": timeout,
        # One attempt only: the caller decides about retries.
        "retry": Retry(NoBackoff(), 0),
    }
