"""Finds version folders and selects the versions of a policy."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Mapping, Sequence

from serving.files import find_versions
from serving.startup import StartupError


@dataclasses.dataclass(frozen=True)
class VersionPolicy:
    """The versions to load. Kinds are `latest`, `all` and `specific`."""

    kind: str = "latest"
    num_latest: int = 1
    versions: tuple[int, ...] = ()

    def select(self, available: Sequence[int]) -> list[int]:
        """Returns the selected ones of the available versions, ascending."""
        ordered = sorted(available)
        if self.kind == "all":
            return ordered
        if self.kind == "specific":
            return [v for v in ordered if v in set(self.versions)]
        return ordered[-self.num_latest :]


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The configuration of one model."""

    name: str
    base_path: str
    policy: VersionPolicy = VersionPolicy()
    labels: Mapping[str, int] = dataclasses.field(default_factory=dict)


def check_folders(models: Sequence[ModelSettings]) -> None:
    """Raises `StartupError` if a model has no version to serve."""
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
    """Returns a value that changes when the files in a folder do."""
    found = set()
    for folder, _, names in os.walk(path):
        for name in names:
            file = os.path.join(folder, name)
            with contextlib.suppress(OSError):  # It was removed meanwhile.
                status = os.stat(file)
                found.add((file, status.st_size, status.st_mtime_ns))
    return frozenset(found)
