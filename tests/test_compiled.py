"""The compiled modules: what they do with what is none of their own."""

import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest
from documents import PACKAGE, ROOT

HEAPTYPE = 1 << 9  # of a class that Python has made; the others' methods take C structs
MODULES = [
    ".".join(("foliocache", *path.relative_to(PACKAGE).with_suffix("").parts)) for path in sorted(PACKAGE.rglob("*.pyi"))
]


def methods():
    for name in MODULES:
        module = import_module(name)
        for kind in vars(module).values():
            if inspect.isclass(kind) and kind.__module__ == name and not kind.__flags__ & HEAPTYPE:
                yield from (pytest.param(each, id=f"{name}.{kind.__name__}.{each.__name__}") for each in plain(kind))


def plain(kind):
    """The methods of a class, and not what the language itself calls."""
    return [each for name, each in vars(kind).items() if inspect.isroutine(each) and not name.startswith("__")]


@pytest.mark.parametrize("method", list(methods()))
def test_a_method_refuses_another_object(method):
    with pytest.raises(TypeError, match="doesn't apply to"):
        method(3)


@pytest.mark.parametrize("name", MODULES)
def test_a_module_needs_no_newer_c_library_than_the_wheels_promise(name):
    """The names of the versions of glibc's symbols that a module refers to; there are none in one for another C library."""
    needed = re.findall(rb"\0GLIBC_(\d+)\.(\d+)", Path(import_module(name).__file__).read_bytes())
    newest = tuple(map(int, re.search(r"manylinux_(\d+)_(\d+)", (ROOT / "tools/wheels.py").read_text()).groups()))
    assert [version for version in needed if tuple(map(int, version)) > newest] == []
