"""What the documents point to is there: pages and their sections, files, commands, functions and constants."""

import ast
import functools
import re

import pytest
from documents import MM, PACKAGE, PAGES, ROOT, functions

from foliocache.cli.app import COMMANDS
from foliocache.mm import layout

NAMES = [str(path.relative_to(ROOT)) for path in PAGES]
OURS = ("foliocache", "bench", "benchmarks")
KERNEL = {"SLAB_TYPESAFE_BY_RCU"}  # of Linux
SOURCES = [path for path in PACKAGE.rglob("*.py*") if path.suffix in (".py", ".pyx")]


def prose(path):
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.DOTALL | re.MULTILINE)


def anchor(title):
    """What GitHub makes of a heading."""
    kept = re.sub(r"[^\w\- ]", "", re.sub(r"`", "", title).lower())
    return kept.replace(" ", "-")


def anchors(path):
    return {anchor(title) for title in re.findall(r"^#+ (.*)$", prose(path), re.MULTILINE)}


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name):
    path = ROOT / name
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, section = target.partition("#")
        found = (path.parent / file).resolve() if file else path
        assert found.exists(), target
        if section:
            assert section in anchors(found), target


def commands(text):
    """What stands in code, in a line or a block."""
    return [*re.findall(r"`([^`\n]+)`", text), *re.findall(r"^```\w*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)]


@pytest.mark.parametrize("name", NAMES)
def test_commands_are_there(name):
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for code in commands((ROOT / name).read_text()):
        for command in re.findall(r"(?:^|[ /])foliocache ([a-z]+)\b(?!\.)", code, re.MULTILINE):
            assert command in COMMANDS, code
        for target in re.findall(r"(?:^|[ &])make ([a-z0-9-]+)\b", code, re.MULTILINE):
            assert target in targets, code


@pytest.mark.parametrize("name", NAMES)
def test_python_modules_and_tests_that_are_run_are_there(name):
    for code in commands((ROOT / name).read_text()):
        for module in re.findall(r"python -m ([a-z_.]+)", code):
            parts = module.split(".")
            base = (PACKAGE.parent if parts[0] == "foliocache" else ROOT).joinpath(*parts)
            if parts[0] in OURS:
                assert base.with_suffix(".py").exists() or (base / "__main__.py").exists(), code
        for file in re.findall(r"\b((?:tests|src|docs|tools|examples|bench|benchmarks)/[\w./*-]*[\w*])", code):
            assert "NAME" in file or any(ROOT.glob(file)), code


@functools.cache
def defined():
    """module -> the names that modules of that name define: functions, methods, classes, constants."""
    found = {}
    for path in SOURCES:
        names = found.setdefault(path.stem, set())
        text = path.read_text()
        if path.suffix == ".py":
            names |= {name for name, _ in functions(path)}
            names |= {node.name for node in ast.walk(ast.parse(text)) if isinstance(node, ast.ClassDef | ast.AsyncFunctionDef)}
            names |= set(re.findall(r"^(\w+)(?:: [^=]+)? = ", text, re.MULTILINE))
        else:
            names |= set(re.findall(r"^cdef \w+ (\w+) = ", text, re.MULTILINE))
            for kind, body in re.findall(r"^cdef class (\w+)(.*?)(?=^\S|\Z)", text, re.DOTALL | re.MULTILINE):
                methods = re.findall(r"^    (?:cdef |cpdef |def )[^(=\n]*?(\w+)\(", body, re.MULTILINE)
                names |= {kind, *(f"{kind}.{method}" for method in methods)}
            names |= set(re.findall(r"^(?:cdef |cpdef |def )[^(=\n]*?(\w+)\(", text, re.MULTILINE))
    return found


CORE = {path.stem for path in MM.glob("*.py")} - {"__init__", "atomics"}


@pytest.mark.parametrize("name", NAMES)
def test_functions_and_constants_that_it_names_are_there(name):
    """`module.name` of a module of the core, or of one around it that no variable is called like."""
    modules = CORE | {"lease", "segment", "readahead", "window", "miss"}
    for module, what in re.findall(r"`([a-z_]+)\.([A-Za-z_][\w.]*)`", prose(ROOT / name)):
        if module in modules and what not in ("py", "pyx", "md", "h"):
            assert what in defined()[module] or (module, what) in OF_OBJECTS, f"{module}.{what}"


OF_OBJECTS = {
    ("mapping", "lease"),
    ("mapping", "read"),
    ("mapping", "window"),
    ("mapping", "readinto"),
    ("mapping", "read_bytes"),
}


@pytest.mark.parametrize("name", NAMES)
def test_words_of_the_layout_that_it_names_are_there(name):
    for word in re.findall(
        r"`?\b((?:F|PG|LRU|HDR|MAPPING|NODE|CLIENT|SLAB|ALLOC|TABLE|BUDDY|PIN)_[A-Z_]+)\b", prose(ROOT / name)
    ):
        assert hasattr(layout, word) or word in KERNEL, word
