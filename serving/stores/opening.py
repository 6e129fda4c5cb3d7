"""From a store's URL to the store."""

from __future__ import annotations

from serving.stores.base import LIMIT, BehaviorStore
from serving.stores.lmdb_store import LmdbStore
from serving.stores.redis_store import RedisStore

__all__ = ["open_store"]

_REDIS = ("redis://", "rediss://", "unix://")


def open_store(
    url: str,
    *,
    limit: int = LIMIT,
    timeout: float = 1.0,
    create: bool = True,
) -> BehaviorStore:
    """Opens a behaviour store.

    Args:
        url: `lmdb:/path` of a folder, `redis://host:6379/0`, `rediss://` for
            TLS, or `unix:///path/of/redis.sock`.
        limit: events kept of a user.
        timeout: seconds to wait for a Redis server, to connect and for each
            answer. LMDB has no use for it.
        create: whether a missing LMDB folder is made.

    Raises:
        ValueError: a URL of another kind, or a limit below 1.
        StoreError: the store cannot be opened. A Redis server that is down
            shows only when it is used.
    """
    if url.startswith("lmdb:"):
        path = url.removeprefix("lmdb:")
        if path.startswith("//"):
            path = path[2:]
        if path:
            return LmdbStore(path, limit=limit, create=create)
    elif url.startswith(_REDIS):
        return RedisStore(url, limit=limit, timeout=timeout)
    raise ValueError(
        "store: expected lmdb:/path, redis://host:6379/0, rediss://host or "
        f"unix:///path. Received: {url!r}"
    )
