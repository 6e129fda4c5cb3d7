"""Behavior stores: histories of users outside the model.

`LmdbStore` keeps them in a file of this machine, `RedisStore` in a Redis
server for a fleet. Both read the newest 100,000 events of a user in one round
trip, and verify what they read.
"""

from serving.stores.base import (
    BehaviorStore,
    StoreStats,
    UserHistory,
    UserRecord,
)
from serving.stores.bulk_load import LoadReport, load_users
from serving.stores.errors import (
    StoreCorruptError,
    StoreError,
    StoreMovedError,
    StoreUnavailableError,
)
from serving.stores.layout import Kind, Layout
from serving.stores.lmdb_store import LmdbStore
from serving.stores.migration import copy_users
from serving.stores.opening import check_url, open_store
from serving.stores.redis_store import RedisStore

__all__ = [
    "BehaviorStore",
    "Kind",
    "Layout",
    "LmdbStore",
    "LoadReport",
    "RedisStore",
    "StoreCorruptError",
    "StoreError",
    "StoreMovedError",
    "StoreStats",
    "StoreUnavailableError",
    "UserHistory",
    "UserRecord",
    "check_url",
    "copy_users",
    "load_users",
    "open_store",
]
