"""docs/protocol.md has a row for every access with an order in the core, and for no other."""

import ast
import re

from documents import MM, atomic_calls, functions, page, rows, section

from foliocache.mm import layout

TEXT = section(page("protocol.md"), "Every order, its partner and its reason")
TABLE = rows(TEXT, "access", "operation")
ORDERED = re.compile(
    r"\w+_(relaxed|acquire|release|acq_rel|seq_cst)(64)?|record32|write_once|read_once|count64|asymmetric_fence_(light|heavy)"
)
PLAIN = {"read32", "write32", "read64", "write64", "write_bytes"}
NAME = re.compile(r"`([\w.]+)`")


def core():
    """(module.function, operation, call) of every call of the facade in the core."""
    for path in sorted(MM.glob("*.py")):
        if path.stem != "atomics":
            for function, node in functions(path):
                for operation, call in atomic_calls(node):
                    yield f"{path.stem}.{function}", operation, call


def test_every_access_with_an_order_has_its_row():
    written = {(function, operation) for function, operation, _ in core() if ORDERED.fullmatch(operation)}
    told = {(function, operation.strip("`")) for access, operation, *_ in TABLE for function in NAME.findall(access)}
    assert len(written) > 100
    assert told == written


def test_every_row_has_a_partner_or_says_that_there_is_none():
    for access, operation, partner, why in TABLE:
        pairs = not re.search("relaxed|record32|_once|count64", operation)
        assert (partner != "none") == pairs and why, access


def test_no_word_of_a_segment_is_accessed_seq_cst():
    assert {function.partition(".")[0] for function, operation, _ in core() if "seq_cst" in operation} == {"turn"}


def test_the_words_that_are_accessed_plainly():
    """Those of folios, nodes and records, whose names say so."""
    told = {name for name in NAME.findall(TEXT.strip().split("\n\n")[-1]) if name.startswith(("F_", "NODE_", "MAPPING_"))}
    found = {
        part.attr
        for _, operation, call in core()
        if operation in PLAIN
        for part in ast.walk(call.args[1])
        if isinstance(part, ast.Attribute) and part.attr.startswith(("F_", "NODE_", "MAPPING_"))
    }
    assert told == found and all(hasattr(layout, name) for name in told)
