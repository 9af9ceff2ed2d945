"""The compiled modules: what they do with what is none of their own."""

import inspect
from importlib import import_module

import pytest
from documents import PACKAGE

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
