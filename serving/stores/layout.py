"""Which features a store keeps, and the record in the store that says so."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable

from serving.stores.errors import StoreError

FORMAT = 2
"""Version of what lies in a store."""
RECORD_1 = b"1"
"""The record of format 1, which had one layout for all stores."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """Names of the features that a store keeps, all of them int64.

    Attributes:
        user: features of a user.
        behaviors: features of each event, beside its item id.

    Raises:
        ValueError: a name is empty or comes twice.
    """

    user: tuple[str, ...] = ()
    behaviors: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for field, names in vars(self).items():
            if not all(names) or len(set(names)) < len(names):
                raise ValueError(
                    f"layout: expected distinct names of {field} features, "
                    f"none of them empty. Received: {list(names)}"
                )

    @classmethod
    def of_columns(cls, columns: Iterable[str]) -> Layout:
        """Returns the features of a table of users, from its column names.

        Columns are named `user_<f>` and `behavior_<f>`; `user_id` and
        `behavior_item_ids` are no features.
        """
        names = list(columns)

        def features(prefix: str, key: str) -> tuple[str, ...]:
            return tuple(
                name.removeprefix(prefix)
                for name in names
                if name.startswith(prefix) and name != key
            )

        return cls(
            features("user_", "user_id"),
            features("behavior_", "behavior_item_ids"),
        )

    def record(self) -> bytes:
        """Returns the record that a store keeps of its layout."""
        known = {"format": FORMAT, **dataclasses.asdict(self)}
        return json.dumps(known).encode()


LAYOUT_1 = Layout(
    user=tuple(f"profile_{field}" for field in range(1, 6)),
    behaviors=("category",),
)
"""The layout of every store of format 1, whose records have not changed."""


def read_layout(record: bytes, store: str, format_1: bool = False) -> Layout:
    """Returns the layout that a store's record names.

    Args:
        record: as `Layout.record` made it, or `RECORD_1`.
        store: the store's name, for errors.
        format_1: whether a store of format 1 is accepted.

    Raises:
        StoreError: the store has another format.
    """
    if record == RECORD_1:
        if format_1:
            return LAYOUT_1
        raise StoreError(
            f"{store} has format 1, without the names of its features. Copy "
            "it: muse store migrate --store URL --to NEW_URL"
        )
    try:
        known = json.loads(record)
        if known["format"] == FORMAT:
            return Layout(tuple(known["user"]), tuple(known["behaviors"]))
    except (ValueError, LookupError, TypeError):
        pass
    raise StoreError(
        f"{store} has format {record!r}. Expected: format {FORMAT}"
    )


def no_store(store: str) -> StoreError:
    """Returns the error where there is no store, and no layout for one."""
    return StoreError(
        f"no behavior store in {store}; make one with: muse store load "
        "--data DIR --store URL"
    )
