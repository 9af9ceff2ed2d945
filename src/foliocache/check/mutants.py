"""One-line bugs, made by rule from the syntax tree of a module: what ``mutate`` tries.

==========  ==========================================================================================================
drop        a statement is left out: a call, a second assignment to a variable, a return within a function, break, continue
swap        two statements that follow each other, and both do something, change places
always      what an ``if`` guards is done without being asked
never       what an ``if`` guards is left out
negate      the condition of a loop, of a conditional expression, or a returned condition is the opposite
operand     one part of ``and`` or ``or`` is left out
bound       ``<`` for ``<=`` and so on: the case in which both sides are equal goes the other way
one         an integer is greater by one, or what is added or subtracted is left out; a range ends one earlier
weaken      an atomic operation is relaxed
forget      an atomic read-modify-write is a load
==========  ==========================================================================================================

Mutants that cannot even run are not made: a name that is used before it is bound, an assignment that is the only one.
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from .mutation import Mismatch

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef
# (first byte, byte after the last, what comes there), in the bytes of a source.
Splice: TypeAlias = "tuple[int, int, str]"

ORDERS = ("acquire", "release", "acq_rel", "seq_cst")
# Calls without an effect: statements that contain no others may change places unnoticed.
PURE = (
    "load_",
    "read",
    "folio_at",
    "page_at",
    "npages",
    "nclients",
    "page_shift",
    "chunk_shift",
    "populate",
    "now_ns",
    "min",
    "max",
    "range",
    "len",
)
CHANGES = ("fetch_", "exchange_", "cmpxchg_")
BOUNDS: dict[type[ast.cmpop], str] = {ast.Lt: "<=", ast.LtE: "<", ast.Gt: ">=", ast.GtE: ">"}


@dataclasses.dataclass(frozen=True)
class Mutant:
    """One bug: in ``module.function``, the ``nth`` place where ``how`` makes ``new`` of ``old``. A ``mutation.Mutation``."""

    module: str
    function: str
    how: str
    old: str
    new: str
    nth: int
    line: int = dataclasses.field(compare=False)
    splices: tuple[Splice, ...] = dataclasses.field(compare=False, repr=False)

    @property
    def text(self) -> str:
        """What is changed, as it stands in a list of explained mutants."""
        again = f" #{self.nth + 1}" if self.nth else ""
        return f"{self.how}: {self.old} => {self.new}{again}" if self.new else f"{self.how}: {self.old}{again}"

    @property
    def place(self) -> str:
        return f"{self.module}.{self.function}"

    def apply(self, source: str) -> str:
        """Return the source with this bug. It may have been changed elsewhere; raises Mismatch if it was changed here."""
        for found in mutants_of(source, self.module, self.function):
            if found == self:
                return found.spliced(source)
        raise Mismatch(f"{self.place} has no {self.text!r}")

    def spliced(self, source: str) -> str:
        raw = source.encode()
        for first, end, text in sorted(self.splices, reverse=True):
            raw = raw[:first] + text.encode() + raw[end:]
        return raw.decode()


def mutants(package: Path, module: str) -> list[Mutant]:
    """Return every mutant of a module, in the order of the lines."""
    return list(mutants_of((package / f"{module}.py").read_text(), module))


def mutants_of(source: str, module: str, function: str | None = None) -> Iterator[Mutant]:
    """Yield the mutants of a source: of one function (or ``Class.method``), or of all."""
    for name, node in functions(ast.parse(source)):
        if function in (None, name):
            yield from _Maker(source, module, name, node).made()


def functions(tree: ast.Module) -> Iterator[tuple[str, Function]]:
    """Yield (name, node) of every function, and of every method as ``Class.method``."""
    for node in tree.body:
        if isinstance(node, ast.FunctionDef):
            yield node.name, node
        elif isinstance(node, ast.ClassDef):
            yield from ((f"{node.name}.{each.name}", each) for each in node.body if isinstance(each, ast.FunctionDef))


class _Maker:
    """Makes the mutants of one function."""

    def __init__(self, source: str, module: str, name: str, node: Function) -> None:
        self.module, self.name, self.node = module, name, node
        self.raw = source.encode()
        self.starts = [0]
        for line in self.raw.splitlines(keepends=True):
            self.starts.append(self.starts[-1] + len(line))
        self.seen: dict[tuple[str, str, str], int] = {}
        self.found: list[Mutant] = []

    def made(self) -> list[Mutant]:
        body = self.node.body[1:] if ast.get_docstring(self.node) is not None else self.node.body
        self.block(body, set(_arguments(self.node)), last=True)
        for each in body:
            for node in ast.walk(each):
                self.expression(node)
        return sorted(self.found, key=lambda m: (m.line, m.splices[0][0]))

    # Where things are.

    def span(self, node: ast.stmt | ast.expr) -> tuple[int, int]:
        assert node.end_lineno is not None and node.end_col_offset is not None
        return self.starts[node.lineno - 1] + node.col_offset, self.starts[node.end_lineno - 1] + node.end_col_offset

    def text(self, node: ast.stmt | ast.expr) -> str:
        first, end = self.span(node)
        return self.raw[first:end].decode()

    def add(self, how: str, node: ast.stmt | ast.expr, old: str, new: str, *splices: Splice) -> None:
        old, new = " ".join(old.split()), " ".join(new.split())
        nth = self.seen.get((how, old, new), 0)
        self.seen[how, old, new] = nth + 1
        self.found.append(Mutant(self.module, self.name, how, old, new, nth, node.lineno, splices))

    def replace(self, how: str, node: ast.expr, new: str) -> None:
        self.add(how, node, self.text(node), new, (*self.span(node), new))

    # Statements.

    def block(self, body: Sequence[ast.stmt], bound: set[str], last: bool = False) -> None:
        """Mutate the statements of one block. ``bound`` are the names that have a value when it begins."""
        for number, node in enumerate(body):
            follows = body[number + 1] if number + 1 < len(body) else None
            self.statement(node, bound, last and follows is None)
            if follows is not None:
                self.swap(node, follows, bound)
            bound |= _binds(node)

    def statement(self, node: ast.stmt, bound: set[str], last: bool) -> None:
        if isinstance(node, ast.If):
            self.guard(node)
            self.block(node.body, set(bound), last)
            self.block(node.orelse, set(bound), last)
        elif isinstance(node, ast.While | ast.For):
            if isinstance(node, ast.While) and not isinstance(node.test, ast.Constant):
                self.negate(node.test)
            target = _names(node.target) if isinstance(node, ast.For) else set()
            self.block(node.body, bound | target)
            self.block(node.orelse, set(bound), last)
        elif isinstance(node, ast.With):
            self.block(node.body, set(bound), last)
        elif not isinstance(node, ast.Pass | ast.Import | ast.ImportFrom | ast.Global | ast.Assert):
            if isinstance(node, ast.Return):
                self.returned(node.value)
            only = isinstance(node, ast.Assign) and not _binds(node) <= bound
            if not only and not (last and (isinstance(node, ast.Return))):
                self.drop(node)

    def drop(self, node: ast.stmt) -> None:
        first, end = self.span(node)
        self.add("drop", node, self.text(node), "", (first, end, "pass" + "\n" * self.raw[first:end].count(b"\n")))

    def swap(self, node: ast.stmt, follows: ast.stmt, bound: set[str]) -> None:
        simple = ast.Expr | ast.Assign | ast.AugAssign | ast.AnnAssign
        if not (isinstance(node, simple) and isinstance(follows, simple) and _acts(node) and _acts(follows)):
            return
        if (_binds(node) - bound) & _uses(follows) or (self.text(node) == self.text(follows)):
            return
        one, two = self.text(node), self.text(follows)
        self.add("swap", node, one, two, (*self.span(node), two), (*self.span(follows), one))

    def guard(self, node: ast.If) -> None:
        test = self.text(node.test)
        self.add("always", node, f"if {test}", "", (*self.span(node.test), "True"))
        self.add("never", node, f"if {test}", "", (*self.span(node.test), "False"))

    def returned(self, value: ast.expr | None) -> None:
        if isinstance(value, ast.Compare | ast.BoolOp) or (isinstance(value, ast.UnaryOp) and isinstance(value.op, ast.Not)):
            self.negate(value)
        elif isinstance(value, ast.Constant) and isinstance(value.value, bool):
            self.add("negate", value, f"return {value.value}", "", (*self.span(value), str(not value.value)))

    def negate(self, test: ast.expr) -> None:
        if isinstance(test, ast.UnaryOp) and isinstance(test.op, ast.Not):
            self.replace("negate", test, self.text(test.operand))
        else:
            self.replace("negate", test, f"not ({self.text(test)})")

    # Expressions.

    def expression(self, node: ast.AST) -> None:
        if isinstance(node, ast.IfExp):
            self.negate(node.test)
        elif isinstance(node, ast.BoolOp):
            self.operands(node)
        elif isinstance(node, ast.Compare) and len(node.ops) == 1 and type(node.ops[0]) in BOUNDS:
            left, right = self.text(node.left), self.text(node.comparators[0])
            self.replace("bound", node, f"{left} {BOUNDS[type(node.ops[0])]} {right}")
        elif isinstance(node, ast.Constant) and type(node.value) is int:
            self.replace("one", node, str(node.value + 1))
        elif isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Add | ast.Sub):
            self.one_less(node)
        elif isinstance(node, ast.Call):
            self.call(node)

    def operands(self, node: ast.BoolOp) -> None:
        word = "and" if isinstance(node.op, ast.And) else "or"
        for number, value in enumerate(node.values):
            old = self.text(value)
            neutral = "True" if word == "and" else "False"
            self.add("operand", value, f"{old} {word}" if number == 0 else f"{word} {old}", "", (*self.span(value), neutral))

    def one_less(self, node: ast.BinOp | ast.AugAssign) -> None:
        value = node.right if isinstance(node, ast.BinOp) else node.value
        if isinstance(value, ast.Constant) and value.value == 1:
            self.add("one", value, self.text(node), "without 1", (*self.span(value), "0"))

    def call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id == "range":
            end = node.args[0] if len(node.args) == 1 else node.args[1]
            self.add("one", end, self.text(node), "one less", (*self.span(end), f"{self.text(end)} - 1"))
        name = node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name) and node.func.value.id == "atomics":
            for order in ORDERS:
                if name.removesuffix("64").endswith(f"_{order}") and not name.startswith("fence"):
                    weak = name.replace(f"_{order}", "_relaxed")
                    self.add("weaken", node, self.text(node), weak, (*self.span(node.func), f"atomics.{weak}"))
            if name.startswith(CHANGES):
                load = f"atomics.load_relaxed({', '.join(self.text(each) for each in node.args[:2])})"
                self.add("forget", node, self.text(node), "", (*self.span(node), load))


def _arguments(node: Function) -> Iterable[str]:
    return [each.arg for each in ast.walk(node.args) if isinstance(each, ast.arg)]


def _binds(node: ast.stmt) -> set[str]:
    return _names(node)


def _names(node: ast.AST) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Store)}


def _uses(node: ast.stmt) -> set[str]:
    return {each.id for each in ast.walk(node) if isinstance(each, ast.Name) and isinstance(each.ctx, ast.Load)}


def _acts(node: ast.stmt) -> bool:
    """True if a statement may have an effect besides binding a name."""
    for each in ast.walk(node):
        if isinstance(each, ast.Call):
            name = each.func.attr if isinstance(each.func, ast.Attribute) else getattr(each.func, "id", "")
            if not name.startswith(PURE):
                return True
        if isinstance(each, ast.Subscript | ast.Attribute) and isinstance(each.ctx, ast.Store):
            return True
    return False
