"""The features that a store keeps, and the record of this layout."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple

from serving.stores.errors import StoreError

if TYPE_CHECKING:
    from schemas.ranking_schema import RankingSchema

FORMAT = 3
"""Version of the format of stores."""
RECORD_1 = b"1"
"""The record of format 1, which had the same layout for all stores."""


class Kind(NamedTuple):
    """The type of a feature's values, and their number for each entity.

    Missing values are 0 or NaN.
    """

    dtype: Literal["int64", "float32"] = "int64"
    width: int = 1


Kinds = Mapping[str, Kind] | Iterable[str]


@dataclasses.dataclass(frozen=True, init=False)
class Layout:
    """The features that a store keeps.

    Args:
        user: features of a user; a name without kind is one int64.
        behaviors: features of each event, in addition to its item id.
        times: whether events have times, int64 seconds.
        declaration: YAML of the data's declaration (`schemas`), if any.

    Attributes:
        user: kinds of features by name.
        behaviors: kinds of features by name.
        times: as given.
        declaration: as given.

    Raises:
        ValueError: a name is empty or not unique, or a kind is invalid.
    """

    user: Mapping[str, Kind]
    behaviors: Mapping[str, Kind]
    times: bool
    declaration: str

    def __init__(
        self,
        user: Kinds = (),
        behaviors: Kinds = (),
        times: bool = False,
        declaration: str = "",
    ) -> None:
        for name, value in (
            ("user", _kinds("user", user)),
            ("behaviors", _kinds("behaviors", behaviors)),
            ("times", times),
            ("declaration", declaration),
        ):
            object.__setattr__(self, name, value)

    @classmethod
    def of(cls, declared: RankingSchema) -> Layout:
        """Returns the layout for the declared users and behaviors.

        It excludes features that the item table has, and features that are
        computed from times.
        """
        features = declared.features
        behaviors = {
            name: features.of_behavior(name)
            for name, one in features.behavior.items()
            if name not in features.of_items and not one.time
        }
        user, own = (
            {name: Kind(one.dtype, one.raw_width) for name, one in group}
            for group in (features.user.items(), behaviors.items())
        )
        return cls(user, own, declared.log is not None, declared.yaml())

    @functools.cached_property
    def declared(self) -> RankingSchema | None:
        """The declaration of the data; None if the store has none.

        Raises `StoreError` if this version cannot read it.
        """
        if not self.declaration:
            return None
        import yaml

        from schemas.ranking_schema import RankingSchema

        try:
            return RankingSchema.model_validate(
                yaml.safe_load(self.declaration)
            )
        except ValueError as error:
            reason = " ".join(str(error).split())
            raise StoreError(
                "the store's declaration cannot be read; load the store again "
                f"with this version: {reason}"
            ) from error

    @property
    def digest(self) -> str:
        """Digest of the declaration; empty without one."""
        return self.declared.digest() if self.declared else ""

    def difference(self, other: Layout, whose: str) -> str:
        """Returns the first mismatch with `other`, or an empty text.

        Features that only this store keeps are ignored, as are features that
        stores do not keep.

        Args:
            other: the layout of another part.
            whose: name of this part for the text.
        """
        both = bool(self.declaration and other.declaration)
        mine, theirs = self._described(both), other._described(both)
        for name, said in theirs.items():
            if mine.get(name) != said:
                return (
                    f"{name}: the store keeps {mine.get(name, 'none')}; "
                    f"{whose} has {said}"
                )
        return ""

    def _described(self, fully: bool) -> dict[str, str]:
        """Describes the features, without declared details if not `fully`."""
        found = {
            f"{group}_{name}": f"{dtype} of {width}" if width > 1 else dtype
            for group, kinds in (
                ("user", self.user),
                ("behavior", self.behaviors),
            )
            for name, (dtype, width) in kinds.items()
        }
        if self.times:
            found["times of events"] = "int64"
        if fully and self.declared is not None:
            keys = {"user_id": "int64", "item_id": "int64"}
            texts = self.declared.texts()
            found = {
                name: f"texts ({said}, hashed as {texts[name]})"
                if name in texts
                else said
                for name, said in {**keys, **found}.items()
            }
            log, features = self.declared.log, self.declared.features
            if log:
                found["actions kept"] = ", ".join(sorted(log.keep)) or "all"
            for group in ("context", "behavior"):
                for name, one in getattr(features, group).items():
                    if one.time and log:
                        clock = f"{one.time}, {log.as_of}, {log.timezone}"
                        found[f"{group}_{name}"] = clock
        return found

    def record(self) -> bytes:
        """Returns the record of this layout for the store."""
        declared = self.declared
        known = {
            "format": FORMAT,
            "digest": self.digest,
            "version": declared.version if declared else 0,
            **dataclasses.asdict(self),
        }
        return json.dumps(known).encode()


def _kinds(field: str, given: Kinds) -> Mapping[str, Kind]:
    names = list(given)
    if not all(names) or len(set(names)) < len(names):
        raise ValueError(
            f"layout: expected distinct names of {field} features, none of "
            f"them empty. Received: {names}"
        )
    kinds = given if isinstance(given, Mapping) else {}
    found = {name: Kind(*kinds.get(name, ())) for name in names}
    for name, kind in found.items():
        if kind.dtype not in ("int64", "float32") or kind.width < 1:
            raise ValueError(
                f"layout: {field} {name}: expected int64 or float32, and a "
                f"width of 1 or more. Received: {kind.dtype}, {kind.width}"
            )
    return found


LAYOUT_1 = Layout(
    user=(f"profile_{field}" for field in range(1, 6)),
    behaviors=("category",),
)
"""The layout of every store of format 1.

Records of users are the same in formats 1 and 2, and in format 3 if each
feature is one int64 and there are no times.
"""


def read_layout(record: bytes, store: str, old_format: bool = False) -> Layout:
    """Reads the layout from a store's record.

    Args:
        record: as `Layout.record` made it, or `RECORD_1`.
        store: the store's name, for errors.
        old_format: whether stores of formats 1 and 2 are accepted.

    Raises:
        StoreError: the store has another format.
    """
    found, layout = 0, LAYOUT_1
    try:
        known = json.loads(record)
        found = known if record == RECORD_1 else known["format"]
        if found in (2, FORMAT):
            layout = Layout(
                known["user"],
                known["behaviors"],
                known.get("times", False),
                known.get("declaration", ""),
            )
    except (ValueError, LookupError, TypeError):
        found = 0
    if found == FORMAT or (found in (1, 2) and old_format):
        return layout
    if found in (1, 2):
        raise StoreError(
            f"{store} has format {found}, without the kinds of its features. "
            "Copy it: muse store migrate --store URL --to NEW_URL"
        )
    raise StoreError(
        f"{store} has format {record[:200]!r}. Expected: format {FORMAT}"
    )


def no_store(store: str) -> StoreError:
    """Returns the error for a missing store without a layout to create it."""
    return StoreError(
        f"no behavior store in {store}; make one with: muse store load "
        "--data DIR --store URL"
    )
