"""Imports a compiled package a second time, from its source and uncompiled, over another facade.

The package is a folder. Its modules import each other relatively and reach shared memory only through one of them, the
*facade*, called ``atomics``; constants that a scenario may want smaller are in another one, ``layout``. A package with another
name on the same ``__path__`` is then a complete, independent copy. Three things make that copy differ from the compiled one,
and nothing in the package knows of them:

- a meta-path finder serves the alias package from ``.py`` files only; the extension modules beside them are never looked at;
- ``<alias>.atomics`` is in ``sys.modules`` before anything imports it, so the caller's implementation is found there;
- the source passes through :func:`rewrite` on its way to the compiler: constants of ``layout`` can be made smaller, and
  mutations (see ``mutation``) can damage one function on purpose. Line numbers stay those of the file on disk.

``import cython`` inside the copy finds a stand-in, whether Cython is installed or not. Source that uses ``cython.cast`` and the
like fails here at once; uncompiled, it would mean something else.
"""

from __future__ import annotations

import ast
import contextlib
import functools
import importlib
import importlib.abc
import importlib.util
import itertools
import sys
import types
from collections.abc import Iterable, Iterator, Mapping
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .mutation import Mutation

FACADE, CONSTANTS = "atomics", "layout"
_numbers = itertools.count(1)

_cython = types.ModuleType("cython")
vars(_cython).update(compiled=False, nogil=contextlib.nullcontext())


class Core:
    """One copy of the package: ``core.page_ref``, ``core.layout`` and so on, each imported when it is first asked for."""

    def __init__(self, name: str, facade: types.ModuleType, finder: _Finder) -> None:
        self.name = name
        self.atomics = facade
        self._finder = finder

    def __getattr__(self, module: str) -> Any:
        if module.startswith("_") or not self._finder.file(module).exists():
            raise AttributeError(f"{self._finder.package} has no module {module!r}")
        found = importlib.import_module(f"{self.name}.{module}")
        setattr(self, module, found)
        return found

    def detach(self) -> None:
        """Import all modules, then remove the copy from ``sys.modules`` and ``sys.meta_path``. It remains usable."""
        for module in modules(self._finder.package):
            getattr(self, module)
        with contextlib.suppress(ValueError):
            sys.meta_path.remove(self._finder)
        for key in [key for key in sys.modules if key == self.name or key.startswith(self.name + ".")]:
            del sys.modules[key]


def modules(package: Path) -> list[str]:
    """The names of the modules in that folder, without ``__init__``, in alphabetical order."""
    return sorted(file.stem for file in Path(package).glob("*.py") if file.stem != "__init__")


def load(
    package: Path,
    facade: types.ModuleType,
    overrides: Mapping[str, int] | None = None,
    mutations: Iterable[Mutation] = (),
    name: str | None = None,
) -> Core:
    """Return a fresh :class:`Core`: the source in the folder ``package``, over ``facade``.

    ``overrides`` are constants of ``layout``, as in ``{"NODE_SHIFT": 2}``; ValueError is raised if there is no such constant.
    ``mutations`` are applied to the source; ``mutation.Mismatch`` is raised if one does not fit.
    """
    alias = name or f"_checked_{Path(package).name}_{next(_numbers)}"
    finder = _Finder(alias, Path(package), dict(overrides or {}), tuple(mutations))
    copy = types.ModuleType(alias, "A copy of the package, uncompiled.")
    copy.__path__ = [str(package)]
    copy.__package__ = alias
    setattr(copy, FACADE, facade)
    sys.modules[alias] = copy
    sys.modules[f"{alias}.{FACADE}"] = facade
    sys.meta_path.insert(0, finder)
    core = Core(alias, facade, finder)
    for mutation in finder.mutations:
        getattr(core, mutation.module)  # raises Mismatch if a mutation no longer fits its source
    return core


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, alias: str, package: Path, overrides: dict[str, int], mutations: tuple[Mutation, ...]) -> None:
        self.alias = alias
        self.package = package
        self.overrides = overrides
        self.mutations = mutations

    def file(self, module: str) -> Path:
        return self.package / f"{module}.py"

    def find_spec(self, fullname: str, path: object, target: object = None) -> ModuleSpec | None:
        package, _, module = fullname.rpartition(".")
        file = self.file(module)
        if package != self.alias or not file.exists():
            return None
        return importlib.util.spec_from_loader(fullname, self, origin=str(file))

    def exec_module(self, module: types.ModuleType) -> None:
        file = self.file(module.__name__.rpartition(".")[2])
        overrides = tuple(self.overrides.items()) if file.stem == CONSTANTS else ()
        mutations = tuple(mutation for mutation in self.mutations if mutation.module == file.stem)
        module.__file__ = str(file)
        with _stand_in():
            exec(_code(file, file.stat().st_mtime_ns, overrides, mutations), vars(module))


@functools.lru_cache(maxsize=8192)
def _code(file: Path, mtime: int, overrides: tuple[tuple[str, int], ...], mutations: tuple[Mutation, ...]) -> types.CodeType:
    return compile(rewrite(file, overrides, mutations), str(file), "exec")


@contextlib.contextmanager
def _stand_in() -> Iterator[None]:
    before = sys.modules.get("cython")
    sys.modules["cython"] = _cython
    try:
        yield
    finally:
        if before is None:
            del sys.modules["cython"]
        else:
            sys.modules["cython"] = before


def rewrite(file: Path, overrides: Iterable[tuple[str, int]] = (), mutations: Iterable[Mutation] = ()) -> ast.Module:
    """Return the syntax tree of ``file`` after the mutations, with the overridden constants put in."""
    source = file.read_text()
    for mutation in mutations:
        source = mutation.apply(source)
    tree = ast.parse(source, str(file))
    return _override(tree, dict(overrides)) if overrides else tree


def _override(tree: ast.Module, values: dict[str, int]) -> ast.Module:
    """Replace the assignments themselves, so that constants computed from them follow."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in values:
            node.value = ast.copy_location(ast.Constant(values.pop(node.targets[0].id)), node.value)
    if values:
        raise ValueError(f"{CONSTANTS} has no constant {', '.join(sorted(values))}")
    return tree
