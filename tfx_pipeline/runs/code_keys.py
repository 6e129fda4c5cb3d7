"""Cache keys of code, which ignore comments and docstrings.

A key is a digest of the syntax trees of a module and of all modules of this
project that it imports, and of the versions of other packages that these
import.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import hashlib
import importlib.metadata
import importlib.util
import pathlib
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

PACKAGES = ("muse_keras", "muse_tools", "schemas", "serving", "tfx_pipeline")
PROJECT = pathlib.Path(__file__).resolve().parents[2]

# Settings are parameters of components, and progress does not change outputs.
_NO_WORK = ("tfx_pipeline.config", "tfx_pipeline.progress")
_NAME = re.compile(rf"(?<![\w./-])(?:{'|'.join(PACKAGES)})(?:\.\w+)+")


def mark(nodes: Iterable[Any]) -> None:
    """Gives each component of a pipeline the key of its code.

    The code is that of its executor and of the modules of this project that its
    parameters name.
    """
    for node in nodes:
        spec = getattr(node, "executor_spec", None)
        if spec is None or not hasattr(spec, "executor_class"):
            continue
        modules = {spec.executor_class.__module__}
        for value in node.exec_properties.values():
            # A name that is not a module may be part of a path.
            modules |= {_module(name) for name in _NAME.findall(str(value))}
        modules.discard("")
        node.exec_properties["code_fingerprint"] = key(tuple(sorted(modules)))


@functools.cache
def key(modules: tuple[str, ...], root: pathlib.Path = PROJECT) -> str:
    """Returns a digest of all code that the modules need."""
    digest = hashlib.sha256()
    others: set[str] = set()
    for name, path in closure(root, modules).items():
        if name in _NO_WORK:
            continue
        source = _read(path)
        digest.update(f"{name} {source.digest}".encode())
        others |= {base.partition(".")[0] for base, _ in source.imports}
        for file in _data_files(path):
            digest.update(file.read_bytes())
    others |= {module.partition(".")[0] for module in modules}
    others -= {*PACKAGES, *sys.stdlib_module_names}
    for package in sorted(others):
        digest.update(f"{package} {_version(package)}".encode())
    return digest.hexdigest()[:16]


def encoder_digest(encoder: str) -> str:
    """Returns the part of a cache key that covers the code of a text encoder.

    It is the digest of a function's module, or the version of the package that
    loads a sentence model; "" for the built-in encoder, whose code is in the
    key already.

    Raises:
        ModuleNotFoundError: there is no such module.
    """
    module, _, name = encoder.partition(":")
    if not name:
        return ""
    if module == "sentence":
        return _version("sentence_transformers")
    spec = importlib.util.find_spec(module)
    if spec is None:
        raise ModuleNotFoundError(f"No module named {module!r}", name=module)
    path = pathlib.Path(spec.origin or "")
    return _read(path).digest if path.suffix == ".py" else ""


def closure(
    root: pathlib.Path, modules: Iterable[str]
) -> dict[str, pathlib.Path]:
    """Returns the files of this project that modules need, by module name.

    It follows all imports, also inside functions, and modules that a string
    names (``python -m``). If a package re-exports a name, only the module of
    that name is followed: code that uses one loss does not depend on others.

    Raises:
        ModuleNotFoundError: a module of this project does not exist.
    """
    found: dict[str, pathlib.Path] = {}
    waiting = list(filter(_ours, modules))
    for module in waiting:
        if _file(root, module) is None:
            raise ModuleNotFoundError(f"{module} is not in {root}")
    followed = set()
    while waiting:
        module = waiting.pop()
        if module in followed:
            continue
        followed.add(module)
        # Python runs the packages above a module first. Their files are part
        # of the key, but not the modules that they import.
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            parent = ".".join(parts[:end])
            file = _file(root, parent)
            if file is not None:
                found[parent] = file
        waiting += [
            origin
            for base, name in _read(found[module]).imports
            if _ours(base) and (origin := _origin(root, base, name))
        ]
    return dict(sorted(found.items()))


def _data_files(path: pathlib.Path) -> list[pathlib.Path]:
    """Returns the data files beside a module that it may read.

    If a module names one file, all files with the same suffix are included.
    """
    text = path.read_text(encoding="utf-8")
    files = sorted(path.parent.glob("*.*"))
    named = {file.suffix for file in files if file.name in text}
    return [f for f in files if f.suffix in named - {".py", ".md"}]


class _Source(NamedTuple):
    """The digest of a file and its imports as (module, name or "")."""

    digest: str
    imports: list[tuple[str, str]]
    """Imports at run time."""
    bound: list[tuple[str, str]]
    """All imports, including those for types only."""


def _read(path: pathlib.Path) -> _Source:
    return _parse(path.read_bytes())


@functools.cache
def _parse(source: bytes) -> _Source:
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(body := getattr(node, "body", None), list):
            # Remove docstrings.
            node.body = [  # type: ignore[attr-defined]
                statement
                for statement in body
                if not (
                    isinstance(statement, ast.Expr)
                    and isinstance(statement.value, ast.Constant)
                )
            ]
    return _Source(
        hashlib.sha256(ast.dump(tree).encode()).hexdigest(),
        list(_imports(tree, types=False)),
        list(_imports(tree, types=True)),
    )


def _module(name: str) -> str:
    """Returns the module of this project that has a name; "" if none has."""
    while "." in name:
        if _file(PROJECT, name):
            return name
        name = name.rpartition(".")[0]
    return ""


def _file(root: pathlib.Path, module: str) -> pathlib.Path | None:
    path = root.joinpath(*module.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


def _origin(root: pathlib.Path, base: str, name: str) -> str:
    """Returns the module that defines `name` of `base`."""
    if name and _file(root, f"{base}.{name}"):
        return f"{base}.{name}"
    file = _file(root, base)
    if file is None:
        return ""
    if name and file.name == "__init__.py":
        for other, bound in _read(file).bound:
            if bound == name and other != base and _ours(other):
                return _origin(root, other, name)
    return base


def _imports(node: ast.AST, types: bool) -> Iterator[tuple[str, str]]:
    children: Iterable[ast.AST] = ast.iter_child_nodes(node)
    match node:
        case ast.If(test=ast.Name(id="TYPE_CHECKING")) if not types:
            children = node.orelse
        case ast.Import(names=names):
            yield from ((alias.name, "") for alias in names)
        case ast.ImportFrom(module=base, names=names) if base:
            yield from ((base, alias.name) for alias in names)
        case ast.Constant(value=str(text)) if "." in text and _ours(text):
            yield (text, "")
    for child in children:
        yield from _imports(child, types)


_distributions = functools.cache(importlib.metadata.packages_distributions)


def _version(package: str) -> str:
    """Returns versions of the distributions of a package; "" if absent."""
    found = []
    for name in sorted({package, *_distributions().get(package, ())}):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found.append(f"{name}={importlib.metadata.version(name)}")
    return " ".join(found)


def _ours(module: str) -> bool:
    return module.partition(".")[0] in PACKAGES
