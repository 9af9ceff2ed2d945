"""Documents, docstrings and comments are in plain technical English: a process, a client, a reader is "it"."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest
from documents import PAGES, ROOT

PRIVATE = re.compile(
    r"\b(he|she|him|his|himself|somebody|someone|everybody|whoever|vague|entrust\w*|anew)\b"
    r"|\bis at it\b|\bof one's own\b|\b(made|make|makes) again\b",
    re.IGNORECASE,
)
FOLDERS = ("src", "tests", "benchmarks", "tools", "examples")


def prose(path):
    """Yield (line number, text) of the docstrings and comments of a file; of one in C or Cython, all of its lines."""
    text = path.read_text()
    if path.suffix != ".py":
        yield from enumerate(text.splitlines(), 1)
        return
    for node in ast.walk(ast.parse(text)):
        may_have_one = isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef))
        if may_have_one and (said := ast.get_docstring(node, clean=False)):
            yield node.body[0].lineno, said
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents(path):
    assert [line for line in path.read_text().splitlines() if PRIVATE.search(line)] == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_sources(folder):
    files = [path for path in sorted((ROOT / folder).rglob("*.*")) if path.suffix in (".py", ".pyx", ".pxd", ".h", ".c")]
    checked = [path for path in files if path != Path(__file__)]
    assert checked
    found = [(path, number, text) for path in checked for number, text in prose(path) if PRIVATE.search(text)]
    assert [f"{path.relative_to(ROOT)}:{number}: {PRIVATE.search(text)[0]}" for path, number, text in found] == []


def test_private_words_are_found(tmp_path):
    """In a docstring, in a comment, and in C; not in a string that is neither."""
    path = tmp_path / "x.py"
    path.write_text('"""Asks him."""\n\nx = "anew"  # for somebody\n')
    assert [number for number, text in prose(path) if PRIVATE.search(text)] == [1, 3]
    path = tmp_path / "x.h"
    path.write_text("int x;\n/* whoever */\n")
    assert [number for number, text in prose(path) if PRIVATE.search(text)] == [2]
