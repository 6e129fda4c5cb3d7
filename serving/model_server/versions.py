"""Which version folders exist, and which of them a policy wants."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping, Sequence

from serving.files import find_versions
from serving.startup import StartupError


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


def check_folders(models: Sequence[ModelSettings]) -> None:
    """Looks whether there is something to serve."""
    for model in models:
        folder, problem = model.base_path, ""
        if not os.path.isdir(folder):
            problem = f"base path {folder} is not a folder"
        elif not model.policy.select(list(find_versions(folder))):
            problem = f"no servable version below {folder}"
        if problem:
            raise StartupError(
                f"model {model.name!r}: {problem} (expected {folder}/<number>/"
                "saved_model.pb, as `muse demo` or `muse pipeline run` push it)"
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
