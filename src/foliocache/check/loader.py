"""Imports the shipped core a second time, uncompiled, over another ``atomics``.

The core's modules import each other relatively, so a package with another name on the same ``__path__`` is a complete,
independent copy of the core. Three things make that copy differ from the compiled one, and nothing in ``mm`` knows of them:

- a meta-path finder serves the alias package from ``.py`` files only; the extension modules beside them are never looked at;
- ``<alias>.atomics`` is in ``sys.modules`` before anything imports it, so the facade's other body is found there;
- the source passes through :func:`rewrite` on its way to the compiler: layout constants can be made smaller, and mutations
  (see ``mutation``) can damage one function on purpose. Line numbers stay those of the file on disk.

``import cython`` inside the core finds a stand-in, whether Cython is installed or not: the checker needs no compiler, and a
core that started to use ``cython.cast`` and the like would fail here at once, instead of meaning something else uncompiled.
"""

import ast
import contextlib
import functools
import importlib
import importlib.abc
import importlib.util
import itertools
import sys
import types
from pathlib import Path

MM = Path(__file__).resolve().parent.parent / "mm"
_numbers = itertools.count(1)

_cython = types.ModuleType("cython")
vars(_cython).update(compiled=False, nogil=contextlib.nullcontext())


class Core:
    """One copy of the core: ``core.page_ref``, ``core.layout`` and so on, imported when first asked for."""

    def __init__(self, name, atomics, finder):
        self.name = name
        self.atomics = atomics
        self._finder = finder

    def __getattr__(self, module):
        if module.startswith("_") or not (MM / f"{module}.py").exists():
            raise AttributeError(f"foliocache.mm has no module {module!r}")
        found = importlib.import_module(f"{self.name}.{module}")
        setattr(self, module, found)
        return found

    def detach(self):
        """Import what has not been imported yet, then leave ``sys.modules`` and ``sys.meta_path``. The copy goes on working."""
        for file in MM.glob("*.py"):
            if file.stem not in ("__init__", "atomics"):
                getattr(self, file.stem)
        with contextlib.suppress(ValueError):
            sys.meta_path.remove(self._finder)
        for key in [key for key in sys.modules if key == self.name or key.startswith(self.name + ".")]:
            del sys.modules[key]


def load(atomics, overrides=None, mutations=(), name=None):
    """A fresh copy of the core over ``atomics``; ``overrides`` are layout constants, as in ``{"NODE_SHIFT": 2}``."""
    alias = name or f"_foliocache_core_{next(_numbers)}"
    finder = _Finder(alias, dict(overrides or {}), tuple(mutations))
    package = types.ModuleType(alias, "The core, uncompiled.")
    package.__path__ = [str(MM)]
    package.__package__ = alias
    package.atomics = atomics
    sys.modules[alias] = package
    sys.modules[f"{alias}.atomics"] = atomics
    sys.meta_path.insert(0, finder)
    core = Core(alias, atomics, finder)
    for mutation in finder.mutations:
        getattr(core, mutation.module)  # a mutation that no longer fits its source must fail here, not pass unseen
    return core


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def __init__(self, alias, overrides, mutations):
        self.alias = alias
        self.overrides = overrides
        self.mutations = mutations

    def find_spec(self, fullname, path, target=None):
        package, _, module = fullname.rpartition(".")
        file = MM / f"{module}.py"
        if package != self.alias or not file.exists():
            return None
        return importlib.util.spec_from_loader(fullname, self, origin=str(file))

    def exec_module(self, module):
        file = Path(module.__spec__.origin)
        overrides = tuple(self.overrides.items()) if file.stem == "layout" else ()
        mutations = tuple(mutation for mutation in self.mutations if mutation.module == file.stem)
        module.__file__ = str(file)
        with _stand_in():
            exec(_code(file, file.stat().st_mtime_ns, overrides, mutations), vars(module))


@functools.lru_cache(maxsize=256)
def _code(file, mtime, overrides, mutations):
    return compile(rewrite(file, overrides, mutations), str(file), "exec")


@contextlib.contextmanager
def _stand_in():
    before = sys.modules.get("cython")
    sys.modules["cython"] = _cython
    try:
        yield
    finally:
        if before is None:
            del sys.modules["cython"]
        else:
            sys.modules["cython"] = before


def rewrite(file, overrides=(), mutations=()):
    """The syntax tree of ``file`` with the mutations meant for it and the overridden constants put in."""
    source = file.read_text()
    for mutation in mutations:
        source = mutation.apply(source)
    tree = ast.parse(source, str(file))
    return _override(tree, dict(overrides)) if overrides else tree


def _override(tree, values):
    """Replaces the assignments themselves, so that constants computed from them follow."""
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and node.targets[0].id in values:
            node.value = ast.copy_location(ast.Constant(values.pop(node.targets[0].id)), node.value)
    if values:
        raise ValueError(f"layout has no constant {', '.join(sorted(values))}")
    return tree
