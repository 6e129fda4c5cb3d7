"""Which source files the work of a module depends on, read off its imports."""

from __future__ import annotations

import ast
import functools
import pathlib
from collections.abc import Iterable, Iterator

__all__ = ["PACKAGES", "source_files"]

PACKAGES = ("muse_keras", "muse_tools", "schemas", "serving", "tfx_pipeline")


def source_files(
    root: pathlib.Path, modules: Iterable[str]
) -> dict[str, pathlib.Path]:
    """Returns the files that some modules need, by module name.

    Follows every import of our own packages, those inside functions and
    modules named by a string (``python -m``) too. Of a package that only
    passes a name on, it follows that name: who needs one loss does not depend
    on every other one.

    Args:
        root: folder that the packages lie in.
        modules: names of modules to begin with.

    Raises:
        ModuleNotFoundError: there is no such module.
    """
    found: dict[str, pathlib.Path] = {}
    waiting = list(modules)
    for module in waiting:
        if _file(root, module) is None:
            raise ModuleNotFoundError(f"{module} is not in {root}")
    followed = set()
    while waiting:
        module = waiting.pop()
        if module in followed:
            continue
        followed.add(module)
        # A package runs before its modules, but they need not what it imports.
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            parent = ".".join(parts[:end])
            file = _file(root, parent)
            if file is not None:
                found[parent] = file
        waiting += [
            origin
            for base, name in _imports(found[module])
            if (origin := _origin(root, base, name))
        ]
    return dict(sorted(found.items()))


def _file(root: pathlib.Path, module: str) -> pathlib.Path | None:
    path = root.joinpath(*module.split("."))
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


def _origin(root: pathlib.Path, base: str, name: str) -> str:
    """Returns the module that `name` of `base` comes from."""
    if name and _file(root, f"{base}.{name}"):
        return f"{base}.{name}"
    file = _file(root, base)
    if file is None:
        return ""
    if name and file.name == "__init__.py":
        for other, bound in _imports(file, types=True):
            if bound == name and other != base:
                return _origin(root, other, name)
    return base


@functools.cache
def _imports(
    file: pathlib.Path, types: bool = False
) -> tuple[tuple[str, str], ...]:
    """Returns (module, name or "") of each import; `types`: for types too."""
    return tuple(_of_node(ast.parse(file.read_bytes()), types))


def _of_node(node: ast.AST, types: bool) -> Iterator[tuple[str, str]]:
    children: Iterable[ast.AST] = ast.iter_child_nodes(node)
    match node:
        case ast.If(test=ast.Name(id="TYPE_CHECKING")) if not types:
            children = node.orelse
        case ast.Import(names=names):
            yield from ((n.name, "") for n in names if _ours(n.name))
        case ast.ImportFrom(module=base, names=names) if base and _ours(base):
            yield from ((base, n.name) for n in names)
        case ast.Constant(value=str(text)) if "." in text and _ours(text):
            yield (text, "")
    for child in children:
        yield from _of_node(child, types)


def _ours(module: str) -> bool:
    return module.partition(".")[0] in PACKAGES
