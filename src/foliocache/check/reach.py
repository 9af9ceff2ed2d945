"""Which lines and branches of a package's source run: in the scenarios of a suite, or in tests.

``python -m foliocache.check.reach`` explores all scenarios of the project under one model and prints, for each module, how many
of its statements and branches they reach, and which functions no scenario calls.

A statement is counted by a call that is put before it when the source is loaded (a *probe*), not by tracing: an exploration
calls the same functions hundreds of thousands of times. In a scenario, stand-ins replace parts of the source. A probe belongs
to a statement of the file on disk, so what a stand-in has replaced is not counted.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import loader, parallel, scenario
from .mutants import Function, functions

if TYPE_CHECKING:
    from .scenario import Suite

# "module:line" of a statement that has run; "module:line:1" of a condition that was true or a loop's body that was entered,
# "module:line:0" of one that was false, or a loop that has ended by itself.
hits: set[str] = set()
hit: Callable[[str], None] = hits.add


@dataclasses.dataclass(frozen=True)
class Probe:
    """Probes for all functions of one module. A ``mutation.Mutation``, to be applied after all others."""

    module: str
    package: Path

    def apply(self, source: str) -> str:
        file = self.package / f"{self.module}.py"
        known = _functions(file, file.stat().st_mtime_ns)
        tree = ast.parse(source)
        for name, node in functions(tree):
            if name in known:
                _Prober(self.module, _lines(known[name], node)).function(node)
        tree.body.insert(0, ast.parse(f"from {__name__} import hit as __hit__").body[0])
        return ast.unparse(ast.fix_missing_locations(tree))


def probes(package: Path) -> tuple[Probe, ...]:
    """Return probes for every module of a package."""
    return tuple(Probe(module, package) for module in modules(package))


def modules(package: Path) -> list[str]:
    """Return the names of a package's modules that are run here: all but the facade and the constants."""
    return [module for module in loader.modules(package) if module not in (loader.FACADE, loader.CONSTANTS)]


@functools.lru_cache(maxsize=64)
def _functions(file: Path, mtime: int) -> dict[str, Function]:
    return dict(functions(ast.parse(file.read_text())))


def _lines(known: Function, node: Function) -> dict[int, int]:
    """Return the line on disk of each statement of ``node`` that is on disk, by the statement's id()."""
    ours, theirs = _statements(known), _statements(node)
    match = difflib.SequenceMatcher(None, [_head(s) for s in ours], [_head(s) for s in theirs], autojunk=False)
    return {
        id(theirs[block.b + n]): ours[block.a + n].lineno for block in match.get_matching_blocks() for n in range(block.size)
    }


def _statements(node: Function) -> list[ast.stmt]:
    """Return the statements within a function in the order of the source, without its docstring."""
    found: list[ast.stmt] = []

    def visit(body: Iterable[ast.stmt]) -> None:
        for each in body:
            found.append(each)
            for block in _blocks(each):
                visit(block)

    visit(node.body[1:] if ast.get_docstring(node) is not None else node.body)
    return found


def _blocks(node: ast.stmt) -> list[list[ast.stmt]]:
    if isinstance(node, ast.If | ast.For | ast.While):
        return [node.body, node.orelse]
    return [node.body] if isinstance(node, ast.With) else []


def _head(node: ast.stmt) -> str:
    """Return a statement as text, without the blocks in it."""
    if isinstance(node, ast.If | ast.While):
        return f"{type(node).__name__} {ast.unparse(node.test)}"
    if isinstance(node, ast.For):
        return f"For {ast.unparse(node.target)} in {ast.unparse(node.iter)}"
    return ast.unparse(node)


class _Prober:
    def __init__(self, module: str, lines: dict[int, int]) -> None:
        self.module, self.lines = module, lines

    def function(self, node: Function) -> None:
        first = node.body[:1] if ast.get_docstring(node) is not None else []
        node.body = [*first, *self.block(node.body[len(first) :])]

    def block(self, body: Sequence[ast.stmt]) -> list[ast.stmt]:
        made: list[ast.stmt] = []
        for node in body:
            line = self.lines.get(id(node))
            made += [*self.probe(line, ""), node]
            if isinstance(node, ast.If | ast.For | ast.While):
                node.body = [*self.probe(line, ":1"), *self.block(node.body)]
                node.orelse = [*self.probe(line, ":0"), *self.block(node.orelse)]
            elif isinstance(node, ast.With):
                node.body = self.block(node.body)
        return made

    def probe(self, line: int | None, branch: str) -> list[ast.stmt]:
        if line is None:
            return []
        call = ast.Call(ast.Name("__hit__", ast.Load()), [ast.Constant(f"{self.module}:{line}{branch}")], [])
        return [ast.Expr(call)]


@dataclasses.dataclass(frozen=True)
class Points:
    """What there is to reach in a module: for each function, the statements and branches, as in ``hits``."""

    lines: dict[str, list[str]]
    branches: dict[str, list[str]]


def points(package: Path, module: str) -> Points:
    """Return what there is to reach in a module as it is on disk."""
    file = package / f"{module}.py"
    return _points(file, file.stat().st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _points(file: Path, mtime: int) -> Points:
    module = file.stem
    lines, branches = {}, {}
    for name, node in _functions(file, mtime).items():
        found = _statements(node)
        lines[name] = [f"{module}:{s.lineno}" for s in found]
        branches[name] = [
            f"{module}:{s.lineno}:{way}"
            for s in found
            if isinstance(s, ast.If | ast.For | ast.While) and not _is_endless(s)
            for way in (1, 0)
        ]
    return Points(lines, branches)


def _is_endless(node: ast.stmt) -> bool:
    return isinstance(node, ast.While) and isinstance(node.test, ast.Constant)


def explored(
    suite: Suite, name: str, model: str = "rc11", budget: float | None = None, samples: int | None = None
) -> tuple[set[str], float]:
    """Explore a scenario, or so many samples of it; return what it reaches and the seconds that takes."""
    hits.clear()
    which = suite.scenarios[name]
    probed = dataclasses.replace(which, stand_ins=(*which.stand_ins, *probes(suite.package)))
    row = scenario.run(probed, model, budget=budget, samples=samples)
    return set(hits), row.seconds


def survey(suite: Suite, jobs: int, budget: float | None = None) -> dict[str, tuple[set[str], float]]:
    """Return what each scenario reaches, and its seconds."""
    names = list(suite.scenarios)
    return dict(parallel.each(lambda name: explored(suite, name, budget=budget), names, jobs))


def called(package: Path, reached: set[str]) -> set[str]:
    """Return the functions of which something is reached, as "module.function"."""
    return {
        f"{module}.{name}"
        for module in modules(package)
        for name, each in points(package, module).lines.items()
        if reached.intersection(each)
    }


def uncalled(package: Path, reached: set[str]) -> dict[str, list[str]]:
    """Return the functions of which nothing is reached, by module."""
    found = {}
    for module in modules(package):
        lines = points(package, module).lines
        names = [name for name, each in lines.items() if each and not reached.intersection(each)]
        if names:
            found[module] = names
    return found


def _share(wanted: Sequence[str], reached: set[str]) -> str:
    found = len(reached.intersection(wanted))
    return f"{found:5} of {len(wanted):5}  {found / len(wanted):6.1%}" if wanted else f"{'':22}"


def main(suite: Suite) -> int:
    """Print what the scenarios of ``suite`` reach."""
    surveyed = survey(suite, os.cpu_count() or 1)
    reached: set[str] = set().union(*(found for found, _ in surveyed.values()))
    totals: tuple[list[str], list[str]] = [], []
    print(f"{'module':12} {'statements':>22} {'branches':>22}  not reached")
    for module in modules(suite.package):
        there = points(suite.package, module)
        lines = [line for each in there.lines.values() for line in each]
        branches = [branch for each in there.branches.values() for branch in each]
        if lines:
            missed = [line.partition(":")[2] for line in lines if line not in reached]
            print(f"{module:12} {_share(lines, reached)} {_share(branches, reached)}  {','.join(missed)}")
            totals[0].extend(lines)
            totals[1].extend(branches)
    print(f"{'all':12} {_share(totals[0], reached)} {_share(totals[1], reached)}")
    for module, names in uncalled(suite.package, reached).items():
        print(f"called by no scenario: {module}: {', '.join(names)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(scenario.load_suite("foliocache.check.scenarios")))
