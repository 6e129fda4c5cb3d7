"""Executes a module of another package only when one of its names is read."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence
from typing import Any


def import_on_access(name: str) -> None:
    """Imports a module from now on without executing it.

    It is executed when one of its names is read first. Has no effect on a
    module that was imported before. A second call has no effect.

    Args:
        name: the full name of the module, e.g. "tfx.v1.extensions".
    """
    if _Finder(name) not in sys.meta_path:
        sys.meta_path.insert(0, _Finder(name))


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, name: str) -> None:
        self._name = name

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Finder) and other._name == self._name

    def __hash__(self) -> int:
        return hash(self._name)

    def find_spec(
        self,
        fullname: str,
        path: Sequence[str] | None,
        target: types.ModuleType | None = None,
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname != self._name:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


class _Loader(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def exec_module(self, module: types.ModuleType) -> None:
        def load(attribute: str) -> Any:
            # The standard library asks all modules for such names.
            if attribute.startswith("__"):
                raise AttributeError(attribute)
            del module.__dict__["__getattr__"]
            self._loader.exec_module(module)
            return getattr(module, attribute)

        module.__dict__["__getattr__"] = load
