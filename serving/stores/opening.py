"""Opens a store by its URL."""

from __future__ import annotations

import urllib.parse

from serving.stores.base import LIMIT, BehaviorStore
from serving.stores.layout import Layout
from serving.stores.lmdb_store import LmdbStore
from serving.stores.redis_nodes import CLUSTER, cluster_urls
from serving.stores.redis_store import RedisStore, hide_password

_REDIS = ("redis://", "rediss://", "unix://", *CLUSTER)


def open_store(
    url: str,
    layout: Layout | None = None,
    *,
    limit: int = LIMIT,
    timeout: float = 1.0,
    old_format: bool = False,
) -> BehaviorStore:
    """Opens a behavior store, which has its own layout, or creates one.

    Args:
        url: `lmdb:/path` of a folder, `redis://host:6379/0`, `rediss://` for
            TLS, `unix:///path/of/redis.sock`, or `redis+cluster://host:6379`
            with nodes of a Redis Cluster, separated by commas.
        layout: features of a store that is created if there is none; None
            raises an error in this case.
        limit: maximum number of events of a user.
        timeout: seconds to wait for a Redis server, to connect and for each
            answer. LMDB does not use it.
        old_format: whether stores of formats 1 and 2 are opened, to copy them.

    Raises:
        ValueError: the URL is not supported, or the limit is below 1.
        StoreUnavailableError: a Redis server does not answer.
        StoreError: the store cannot be opened.
    """
    check_url(url)
    if url.startswith(_REDIS):
        return RedisStore(
            url, layout, limit=limit, timeout=timeout, old_format=old_format
        )
    return LmdbStore(
        _lmdb_path(url), layout, limit=limit, old_format=old_format
    )


def check_url(url: str) -> None:
    """Checks that a URL names a store, without connecting to it.

    Raises:
        ValueError: the URL is not supported.
    """
    shown = hide_password(url)
    if not (url.startswith(_REDIS) or _lmdb_path(url)):
        raise ValueError(
            "store: expected lmdb:/path, redis://host:6379/0, rediss://host, "
            "unix:///path or redis+cluster://host:6379,host:6379. "
            f"Received: {shown!r}"
        )
    try:
        # Reading `port` validates it; a path may contain colons.
        nodes = cluster_urls(url) if url.startswith(CLUSTER) else [url]
        for node in nodes:
            _ = node.startswith(_REDIS) and urllib.parse.urlsplit(node).port
    except ValueError as error:
        raise ValueError(
            "store: expected a port of 0 to 65535, as in "
            f"redis://host:6379/0. Received: {shown!r}"
        ) from error


def _lmdb_path(url: str) -> str:
    """Returns the folder of an LMDB store; empty for other URLs."""
    if not url.startswith("lmdb:"):
        return ""
    path = url.removeprefix("lmdb:")
    return path[2:] if path.startswith("//") else path
