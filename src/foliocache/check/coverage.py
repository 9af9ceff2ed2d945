"""Checks that every atomic operation is needed as it is: each is weakened and dropped in turn, against a whole suite.

``python -m foliocache.check.coverage`` prints, for every atomic operation of the modules that the protocol's argument rests
on, which scenario fails without it, or the reason why it may be weaker than it is. An operation with neither is a gap in the
suite.
"""

from __future__ import annotations

import ast
import dataclasses
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeGuard

from . import parallel, scenario

if TYPE_CHECKING:
    from .scenario import Scenario, Suite


Recheck: TypeAlias = tuple[str, str, str, str, str]


@dataclasses.dataclass(frozen=True)
class Claims:
    """What a suite claims about the atomic operations in ``modules``; ``Suite.claims``.

    ``reasons`` says why operations stay although no scenario fails without them, by (module, function, "weaken" or "drop").
    ``asked(name, module, function)`` returns True if the scenario of that name is to be tried on a change in that function.
    ``rechecks`` are about second loads of a word: (caller, scenario, bug, expected verdict, remark).
    """

    modules: tuple[str, ...]
    reasons: dict[tuple[str, str, str], str]
    asked: Callable[[str, str, str], bool]
    rechecks: tuple[Recheck, ...] = ()


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

    def apply(self, source: str) -> str:
        lines = source.splitlines(keepends=True)
        line = lines[self.line - 1].encode()
        assert line[self.column : self.end].decode() == self.old
        lines[self.line - 1] = (line[: self.column] + self.new.encode() + line[self.end :]).decode()
        return "".join(lines)


def changes(package: Path, module: str) -> Iterator[Change]:
    """Yield every change of every atomic call in a module that has an order or an effect."""
    source = (package / f"{module}.py").read_text()
    for function in ast.parse(source).body:
        if isinstance(function, ast.FunctionDef):
            for call in ast.walk(function):
                if isinstance(call, ast.Call) and _is_atomic(call.func):
                    yield from _changes(module, function.name, call, call.func.attr, source)


def _is_atomic(func: ast.expr) -> TypeGuard[ast.Attribute]:
    orders = ("relaxed", "acquire", "release", "acq_rel", "seq_cst", "relaxed64", "acquire64", "release64")
    return (
        isinstance(func, ast.Attribute)
        and isinstance(func.value, ast.Name)
        and func.value.id == "atomics"
        and func.attr.endswith(tuple(f"_{order}" for order in orders))
    )


def _changes(module: str, function: str, call: ast.Call, name: str, source: str) -> Iterator[Change]:
    old = _text(source, call)
    if call.lineno != call.end_lineno:
        raise ValueError(f"{module}.py:{call.lineno}: an atomic call over several lines")
    place = (module, function, call.lineno, call.col_offset, call.end_col_offset or 0, old)
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
        arguments = ", ".join(_text(source, a) for a in call.args[:2])
        yield Change(*place, f"atomics.load_relaxed({arguments})", "drop")


def _text(source: str, node: ast.AST) -> str:
    text = ast.get_source_segment(source, node)
    assert text is not None
    return text


def caught(suite: Suite, change: Change) -> tuple[str, str] | None:
    """Return the first scenario that fails with this change under rc11, and how it fails; None if all hold."""
    claims = _claims(suite)
    for which in suite.scenarios.values():
        if claims.asked(which.name, change.module, change.function):
            how = _run(which, change)
            if how:
                return which.name, how
    return None


def _run(which: Scenario, change: Change) -> str | None:
    changed = dataclasses.replace(which, bugs={"change": scenario.Bug((change,))}, variants={})
    try:
        row = scenario.run(changed, "rc11", "change", budget=60)
    except AssertionError as error:  # in the sequential setup, before any thread begins
        return str(error)
    return row.found.kind if row.found else None


def _claims(suite: Suite) -> Claims:
    if suite.claims is None:
        raise ValueError("this suite makes no claims")
    return suite.claims


def survey(suite: Suite) -> list[tuple[Change, tuple[str, str] | None]]:
    """Return (change, what catches it or None) for every change, by processes on every core."""
    found = [change for module in _claims(suite).modules for change in changes(suite.package, module)]
    by = dict(parallel.each(lambda change: caught(suite, change), found, os.cpu_count() or 1))
    return [(change, by[change]) for change in found]


def rechecks(suite: Suite) -> list[tuple[Recheck, str]]:
    """Return (row of ``Claims.rechecks``, the verdict found) for each."""
    return [(row, scenario.run(suite.scenarios[row[1]], "rc11", row[2]).verdict) for row in _claims(suite).rechecks]


def main(suite: Suite) -> int:
    """Print the survey of ``suite``; return 1 if an operation is neither needed nor explained, else 0."""
    holes = 0
    for change, found in survey(suite):
        reason = _claims(suite).reasons.get((change.module, change.function, change.how))
        verdict = f"{found[0]}: {found[1]}" if found else f"not needed: {reason}" if reason else "NOT CAUGHT"
        holes += not found and not reason
        print(f"{change.module}.{change.function:12} {change.how:6} {change.old:62.62} {verdict}")
    for (where, name, bug, expected, remark), verdict in rechecks(suite):
        holes += verdict != expected
        print(f"{where:19} look again, left out: {name} with {bug} {verdict} ({remark})")
    print(f"{holes} not caught and not explained")
    return 1 if holes else 0


if __name__ == "__main__":
    sys.exit(main(scenario.load_suite("foliocache.check.scenarios")))
