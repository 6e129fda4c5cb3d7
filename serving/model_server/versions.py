"""Which version folders exist, and which of them a policy wants."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from collections.abc import Mapping, Sequence

from serving.startup import StartupError

_NUMBER = re.compile(r"[0-9]{1,19}\Z")
_MAX_VERSION = 2**63 - 1


@dataclasses.dataclass(frozen=True)
class VersionPolicy:
    """Which versions to load; kind is `latest`, `all` or `specific`."""

    kind: str = "latest"
    num_latest: int = 1
    versions: tuple[int, ...] = ()

    def select(self, available: Sequence[int]) -> list[int]:
        """The wanted versions among the available, ascending."""
        ordered = sorted(available)
        if self.kind == "all":
            return ordered
        if self.kind == "specific":
            return [v for v in ordered if v in set(self.versions)]
        return ordered[-self.num_latest :]


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """One model of the configuration."""

    name: str
    base_path: str
    policy: VersionPolicy = VersionPolicy()
    labels: Mapping[str, int] = dataclasses.field(default_factory=dict)


def find_versions(base_path: str) -> dict[int, str]:
    """Version folders below a base path.

    Folders whose names are not numbers are ignored, so that a version can be
    written under a temporary name and renamed. Of "7" and
    "007", the plain spelling is taken.
    """
    found: dict[int, str] = {}
    try:
        with os.scandir(base_path) as entries:
            listed = sorted(entries, key=lambda entry: entry.name)
    except OSError:
        return {}
    for entry in listed:
        if not _NUMBER.match(entry.name) or not entry.is_dir():
            continue
        version = int(entry.name)
        if version > _MAX_VERSION:
            continue
        if version not in found or entry.name == str(version):
            found[version] = entry.path
    return found


def check_folders(models: Sequence[ModelSettings]) -> None:
    """Looks whether there is something to serve."""
    for model in models:
        if not os.path.isdir(model.base_path):
            raise StartupError(
                f"model {model.name!r}: base path {model.base_path} "
                f"is not a folder"
            )
        if not model.policy.select(list(find_versions(model.base_path))):
            raise StartupError(
                f"model {model.name!r}: no servable version below "
                f"{model.base_path} (expected "
                f"{model.base_path}/<number>/saved_model.pb)"
            )


def folder_stamp(path: str) -> frozenset[tuple[str, int, int]]:
    """What changes when the files in a folder do."""
    found = set()
    for folder, _, names in os.walk(path):
        for name in names:
            file = os.path.join(folder, name)
            with contextlib.suppress(OSError):  # It has gone meanwhile.
                status = os.stat(file)
                found.add((file, status.st_size, status.st_mtime_ns))
    return frozenset(found)
