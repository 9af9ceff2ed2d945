"""Packages import downwards only, and never in a circle. The same for the modules of ``mm`` is in mm/test_layers.py."""

import ast
import re
from pathlib import Path

import pytest

import foliocache

SOURCE = Path(foliocache.__file__).parent
# The lowest first: a package imports from the lines above its own, and from itself. "foliocache" stands for the public names.
LAYERS = (
    ("errors", "sizes", "check"),  # the checker loads the files of mm, and imports none of them
    ("mm",),
    ("observe",),
    ("filler",),
    ("objects",),
    ("sources", "tiers"),
    ("pool",),
    ("foliocache",),
    ("adapters",),
    ("cli", "dask", "torch", "zarr"),
)
RANK = {name: number for number, names in enumerate(LAYERS) for name in names}
CIMPORT = re.compile(r"^\s*(?:from\s+(\S+)\s+c?import\s+([\w ,]+)|c?import\s+(\S+))", re.MULTILINE)


def package_of(path):
    """Return the package that a file belongs to; a module of the root counts as a package."""
    first, *rest = path.relative_to(SOURCE).parts
    return first if rest else {"__init__.py": "foliocache", "__main__.py": "cli"}.get(first, first.partition(".")[0])


def imports_of(path):
    """Yield the absolute dotted names that a file imports anywhere: by the syntax of a Python file, else by matching lines."""
    if path.suffix in (".py", ".pyi"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                yield from absolute(path, "." * node.level + (node.module or ""), [alias.name for alias in node.names])
    else:
        for where, names, plain in CIMPORT.findall(path.read_text()):
            yield from absolute(path, where, re.split(r"[ ,]+", names)) if where else [plain]


def absolute(path, where, names):
    level = len(where) - len(where.lstrip("."))
    here = ["foliocache", *path.relative_to(SOURCE).parent.parts]
    base = here[: len(here) - level + 1] if level else []
    dotted = ".".join([*base, *filter(None, where.lstrip(".").split("."))])
    return [f"{dotted}.{name}" for name in names if name]


def imported_packages(path):
    for name in imports_of(path):
        parts = name.split(".")
        if parts[0] == "foliocache":
            yield parts[1] if len(parts) > 1 and parts[1] in RANK else "foliocache"


FILES = sorted(
    path for kind in ("*.py", "*.pyi", "*.pyx", "*.pxd") for path in SOURCE.rglob(kind) if path.name != "__init__.pxd"
)


def test_every_package_has_its_place():
    assert {package_of(path) for path in FILES} == set(RANK)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_point_down(path):
    own = package_of(path)
    if own == "foliocache":
        return  # the public names come from all packages below
    above = {name for name in imported_packages(path) if name != own and RANK[name] >= RANK[own]}
    assert not above, f"{own} is below {', '.join(sorted(above))}"


def test_an_import_upwards_is_found(tmp_path):
    wrong = SOURCE / "mm" / "wrong.pxd"  # need not exist
    assert list(absolute(wrong, "..pool.attachment", ["Attachment"])) == ["foliocache.pool.attachment.Attachment"]
    assert list(absolute(wrong, ".", ["layout"])) == ["foliocache.mm.layout"]
    assert list(absolute(wrong, "foliocache.cli", ["app"])) == ["foliocache.cli.app"]
