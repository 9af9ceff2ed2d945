"""Is every atomic operation needed as it is? Each one weakened and each one dropped, against the whole suite.

``python -m foliocache.check.coverage`` prints, for every atomic operation of the modules that the protocol's argument rests on,
which scenario fails without it, or the reason why it may be weaker than it is. What is neither is a hole in the suite.
"""

import ast
import dataclasses
import sys

from . import loader, scenario

MODULES = ("page_ref", "folio", "xarray", "pagetable")
SLOW = {"lookup/three-getters", "lock/three", "lookup/two-getters"}
# Of the scenarios of death, which are many, those for what only a repair does.
AFTER_DEATH = {"_recount": "death/path-node-freed-both", "_recount_folio": "death/path-evict-get"}
# (module, function, "weaken" or "drop"): why an operation may stay although nothing fails without it.
REASONS: dict[tuple[str, str, str], str] = {
    (
        "page_ref",
        "correct",
        "drop",
    ): "a leaked reference keeps a page of a slab from going back, no more; tests/mm/test_reap.py",
    ("xarray", "_say_where", "drop"): "says it again where it is right; where a node was damaged, tests/test_fsck.py",
    ("xarray", "_recount", "drop"): "after a death within a tree's lock; every step of it is in tests/mm/test_reap.py",
}

# A load cannot be dropped: its value is what the function is for. What can be left out is to look again; that has its own bugs.
# (who calls xarray.reload, scenario, bug, expected verdict, remark)
RECHECKS = (
    ("pagetable.gup_fast", "gup/unmap-reuse", "no-recheck", "fails", "needed"),
    ("filemap.find_get", "lookup/truncate", "no-recheck", "fails", "needed, if the identity is not compared"),
    (
        "filemap.find_get",
        "lookup/truncate",
        "identity-only",
        "holds",
        "not needed: the identity proves it, an ino is never given twice",
    ),
)


@dataclasses.dataclass(frozen=True)
class Change:
    """One atomic call, at a place in a file, weakened or dropped."""

    module: str
    function: str
    line: int
    column: int
    end: int
    old: str
    new: str
    how: str

    def apply(self, source):
        lines = source.splitlines(keepends=True)
        line = lines[self.line - 1].encode()
        assert line[self.column : self.end].decode() == self.old
        lines[self.line - 1] = (line[: self.column] + self.new.encode() + line[self.end :]).decode()
        return "".join(lines)


def changes(module):
    """Every change of every atomic call in a module that has an order or an effect."""
    source = (loader.MM / f"{module}.py").read_text()
    for function in ast.parse(source).body:
        if isinstance(function, ast.FunctionDef):
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and _is_atomic(call.func):
                    yield from _changes(module, function.name, call, source)


def _is_atomic(func):
    orders = ("relaxed", "acquire", "release", "acq_rel", "seq_cst", "relaxed64", "acquire64", "release64")
    return (
        isinstance(func, ast.Attribute)
        and isinstance(func.value, ast.Name)
        and func.value.id == "atomics"
        and func.attr.endswith(tuple(f"_{order}" for order in orders))
    )


def _changes(module, function, call, source):
    old = ast.get_source_segment(source, call)
    if call.lineno != call.end_lineno:
        raise ValueError(f"{module}.py:{call.lineno}: an atomic call over several lines")
    place = (module, function, call.lineno, call.col_offset, call.end_col_offset, old)
    name = call.func.attr
    wide = "64" if name.endswith("64") else ""
    operation = name.removesuffix("64").replace("_acq_rel", "").replace("_seq_cst", "").rsplit("_", 1)[0]
    operation = (
        operation
        if operation in ("fetch_add", "fetch_sub", "fetch_or", "fetch_and", "exchange", "cmpxchg", "load", "store")
        else name
    )
    if "_relaxed" not in name:
        yield Change(*place, old.replace(name, f"{operation}_relaxed{wide}", 1), "weaken")
    if operation == "store":
        yield Change(*place, "None", "drop")
    elif operation != "load":
        arguments = ", ".join(ast.get_source_segment(source, a) for a in call.args[:2])
        yield Change(*place, f"atomics.load_relaxed({arguments})", "drop")


def caught(change):
    """The first scenario that fails with this change under rc11, and how; None if all hold."""
    for which in scenario.load_all().values():
        if which.name not in SLOW and (not which.name.startswith("death/") or which.name == AFTER_DEATH.get(change.function)):
            row = _run(which, change)
            if row:
                return which.name, row
    return None


def _run(which, change):
    changed = dataclasses.replace(which, bugs={"change": scenario.Bug((change,))}, variants={})
    try:
        row = scenario.run(changed, "rc11", "change", budget=60)
    except AssertionError as error:  # in the sequential setup: it does not even begin
        return str(error)
    return row.found.kind if row.found else None


def survey():
    """(change, what catches it or None) for every change."""
    return [(change, caught(change)) for module in MODULES for change in changes(module)]


def rechecks():
    """(row of RECHECKS, the verdict now) for each."""
    found = scenario.load_all()
    return [(row, scenario.run(found[row[1]], "rc11", row[2]).verdict) for row in RECHECKS]


def main():
    holes = 0
    for change, found in survey():
        reason = REASONS.get((change.module, change.function, change.how))
        verdict = f"{found[0]}: {found[1]}" if found else f"not needed: {reason}" if reason else "NOT CAUGHT"
        holes += not found and not reason
        print(f"{change.module}.{change.function:12} {change.how:6} {change.old:62.62} {verdict}")
    for (where, name, bug, expected, remark), verdict in rechecks():
        holes += verdict != expected
        print(f"{where:19} look again, left out: {name} with {bug} {verdict} ({remark})")
    print(f"{holes} not caught and not explained")
    return 1 if holes else 0


if __name__ == "__main__":
    sys.exit(main())
