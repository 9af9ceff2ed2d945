"""Reads the project's documents and source, for the tests that hold the one to the other."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "foliocache"
MM = PACKAGE / "mm"
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


def page(name):
    """The text of a document of docs/."""
    return (ROOT / "docs" / name).read_text()


def section(text, title):
    """What stands under a heading, up to the next one of the same level or a higher one."""
    start = re.search(rf"^(#+) {re.escape(title)}$", text, re.MULTILINE)
    level = len(start[1])
    rest = text[start.end() :]
    end = re.search(rf"^#{{1,{level}}} ", rest, re.MULTILINE)
    return rest[: end.start()] if end else rest


def rows(text, *heads):
    """The rows of the tables whose first cells of the head are these: a list of cells for each."""
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
    """The calls of the facade to shared memory below a node: (name of the operation, call)."""
    for call in ast.walk(node):
        match call:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="atomics"), attr=name)):
                yield name, call


def number(text):
    """The integer in a cell: 20,480 or 0x40."""
    return int(text.replace(",", ""), 0)
