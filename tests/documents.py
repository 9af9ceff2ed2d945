"""Reads the project's documents and source, for the tests that compare them."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "foliocache"
MM = PACKAGE / "mm"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])


def page(name):
    """Return the text of a document of docs/."""
    return (ROOT / "docs" / name).read_text()


def section(text, title):
    """Return the text under a heading, up to the next heading of the same or a higher level."""
    start = re.search(rf"^(#+) {re.escape(title)}$", text, re.MULTILINE)
    level = len(start[1])
    rest = text[start.end() :]
    end = re.search(rf"^#{{1,{level}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def rows(text, *heads):
    """Return the rows of the tables whose header begins with these cells, each a list of cells."""
    found, inside = [], False
    for line in text.splitlines():
        cells = [cell.strip().replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        if not line.startswith("|"):
            inside = False
        elif inside and not set(line) <= set("|-: "):
            found.append(cells)
        elif not inside:
            inside = cells[: len(heads)] == list(heads)
    return found


def functions(path):
    """(name, node) of the functions and methods of a Python file; a method's name begins with its class's."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            for method in node.body:
                if isinstance(method, ast.FunctionDef):
                    yield f"{node.name}.{method.name}", method


def atomic_calls(node):
    """Yield the calls of the facade to shared memory below a node: (name of the operation, call)."""
    for call in ast.walk(node):
        match call:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="atomics"), attr=name)):
                yield name, call


def number(text):
    """Return the integer in a cell: 20,480 or 0x40."""
    return int(text.replace(",", ""), 0)
