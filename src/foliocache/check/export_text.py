"""Writes an exported program as C: C11 with threads for GenMC, or a litmus test of the Linux kernel's memory model for herd7.

For herd7 only what its grammar has (``lib/CParser.mly``): no ``&&``, no empty block, decimal numbers; a test has no thread
that runs after the others, so the judgement is one more thread, and ``filter`` keeps the executions in which it comes last.
FROZEN and REF_MAX are smaller there, so that nothing depends on the width of an ``int``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from .export import Exported, derive
from .export_words import Branch, Condition, Op, Refused, Sum, Wrong

if TYPE_CHECKING:
    from .export import Place
    from .export_words import Operand, Step
    from .graph import Loc, Value
    from .scenario import Scenario

TOOLS = ("genmc", "herd")
SMALL = {"FROZEN": 1 << 20, "REF_MAX": 1 << 19}
TEXTS = 9001  # texts, and numbers of more than 32 bits, become numbers from here on
RESERVED = re.compile(
    "assert|atomic|attrs|bad|char|const|exists|exit|fault|filter|final|forall|free|int|label|lock|locations|long|main|not|"
    r"observed|regions|struct|tag|unlock|unsigned|void|volatile|while|with|[rdPt]\d+|done_\d+|thread_\d+"
)
# The kernel has no acquire-and-release form of an operation: the fully ordered one, without a suffix, is stronger.
SUFFIX = {"relaxed": "_relaxed", "acquire": "_acquire", "release": "_release", "acq_rel": "", "seq_cst": ""}
OPPOSITE = {"==": "!=", "!=": "==", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
ON_FAILURE = {"release": "relaxed", "acq_rel": "acquire"}


def export(which: Scenario, tool: str, mutation: str | None = None) -> str:
    """Return the scenario for "genmc" or "herd", as shipped or with that bug or variant. Raises Refused."""
    if tool == "herd":
        return Litmus(derive(which, mutation, SMALL), mutation).text()
    return C(derive(which, mutation), mutation).text()


class Writer:
    """What both languages share."""

    unsigned: str = "u"  # behind a constant that no int has

    def __init__(self, program: Exported, mutation: str | None) -> None:
        self.program: Exported = program
        self.mutation: str | None = mutation
        self.texts: dict[Value, int] = {}
        self.names: dict[Loc, str] = {}
        for loc, place in program.places.items():
            self.names[loc] = _identifier(place.name, self.names.values())

    def about(self) -> list[str]:
        """Return the comment at the head, as lines."""
        with_bug = f", with the bug or variant {self.mutation}" if self.mutation else ""
        texts = [f"{number} stands for {value!r}." for value, number in self.texts.items()]
        return [f"verify {self.program.name}{with_bug}", "", *self.program.doc.splitlines(), "", *texts]

    def number(self, value: Value) -> str:
        if isinstance(value, int) and 0 <= value <= 0xFFFFFFFF:
            return f"{int(value)}{self.unsigned}" if value >= 0x80000000 else str(int(value))
        return str(self.texts.setdefault(value, TEXTS + len(self.texts)))

    def operand(self, operand: Operand) -> str:
        if not isinstance(operand, Sum):
            return self.number(operand)
        text = f"r{operand.register}"
        if operand.mask is not None:
            text = f"({text} & {self.number(operand.mask)})"
        if operand.plus:
            text = f"{text} {'+' if operand.plus > 0 else '-'} {abs(operand.plus)}"
        return text

    def condition(self, when: Condition, holds: bool) -> str:
        """Return the condition, or the opposite one."""
        if when.relation == "in":
            values = [self.number(value) for value in sorted(when.right, key=repr)]
            one_by_one = [f"r{when.left.register} {'==' if holds else '!='} {value}" for value in values]
            if len(values) == 1:
                return one_by_one[0]
            return (" | " if holds else " & ").join(f"({one})" for one in one_by_one)
        relation = when.relation if holds else OPPOSITE[when.relation]
        return f"{self.operand(when.left)} {relation} {self.number(when.right)}"

    def block(self, steps: list[Step], depth: int) -> Iterator[str]:
        pad = "    " * depth
        for step in steps:
            if isinstance(step, Branch):
                yield from self.branch(step, depth)
            elif isinstance(step, Wrong):
                yield pad + self.wrong(step.message)
            else:
                yield pad + (f"r{step.register} = " if step.register is not None else "") + self.operation(step) + ";"

    def branch(self, step: Branch, depth: int) -> Iterator[str]:
        pad = "    " * depth
        yes, no = list(self.block(step.yes, depth + 1)), list(self.block(step.no, depth + 1))
        holds = bool(yes)
        if not holds:
            yes, no = no, []
        yield f"{pad}if ({self.condition(step.when, holds)}) {{"
        yield from yes
        if no:
            yield f"{pad}}} else {{"
            yield from no
        yield f"{pad}}}"

    def wrong(self, message: str) -> str:
        raise NotImplementedError

    def operation(self, op: Op) -> str:
        raise NotImplementedError

    def of(self, op: Op) -> tuple[str, Place]:
        return self.names[op.loc], self.program.places[op.loc]


class C(Writer):
    """C11, for GenMC, and for any compiler."""

    def text(self) -> str:
        threads = [
            [f"static void *thread_{n}(void *unused)", "{", *self.declared(steps), *self.block(steps, 1),
             "    (void)unused;", "    return NULL;", "}", ""]
            for n, steps in enumerate(self.program.threads, 1)
        ]  # fmt: skip
        judgement = list(self.block(self.program.judgement, 1))
        places = [
            f"static {'atomic_uint' if place.atomic else 'unsigned'} {self.names[loc]} = {self.number(place.start)};"
            for loc, place in self.program.places.items()
        ]
        count = len(threads)
        lines = [
            *["/*", *[f" * {line}".rstrip() for line in self.about()], " * genmc --rc11 -- THIS_FILE", " */"],
            *["#include <assert.h>", "#include <pthread.h>", "#include <stdatomic.h>", "#include <stdlib.h>", ""],
            *[*places, ""],
            *[line for thread in threads for line in thread],
            *["int main(void)", "{", f"    pthread_t t[{count}];", *self.declared(self.program.judgement)],
            *[line for n in range(count) for line in (f"    if (pthread_create(&t[{n}], NULL, thread_{n + 1}, NULL))",
                                                     "        abort();")],
            *[line for n in range(count) for line in (f"    if (pthread_join(t[{n}], NULL))", "        abort();")],
            *[*judgement, "    return 0;", "}"],
        ]  # fmt: skip
        return "\n".join(lines) + "\n"

    def declared(self, steps: list[Step]) -> list[str]:
        return [f"    unsigned r{register} = 0;" for register in _registers(steps)]

    def wrong(self, message: str) -> str:
        return f'assert(0 && "{_plain(message)}");'

    def operation(self, op: Op) -> str:
        order = f"memory_order_{op.order}"
        if op.loc is None:
            return f"atomic_thread_fence({order})"
        name, place = self.of(op)
        values = [self.operand(value) for value in op.values]
        if op.what in ("read", "write") or not place.atomic:
            plain = f"*(unsigned *)&{name}" if place.atomic else name
            return f"{plain} = {values[0]}" if values else plain
        if op.what in ("load", "peek"):
            return f"atomic_load_explicit(&{name}, {order})"
        if op.what == "store":
            return f"atomic_store_explicit(&{name}, {values[0]}, {order})"
        if op.what == "cmpxchg":
            failed = f"memory_order_{ON_FAILURE.get(op.order, op.order)}"
            found = f"&r{op.register}"
            return f"{values[0]}; atomic_compare_exchange_strong_explicit(&{name}, {found}, {values[1]}, {order}, {failed})"
        call = "atomic_exchange_explicit" if op.what == "exchange" else f"atomic_fetch_{op.what}_explicit"
        return f"{call}(&{name}, {values[0]}, {order})"


class Litmus(Writer):
    """A litmus test in C, for herd7 with the Linux kernel's memory model."""

    unsigned: str = ""

    def text(self) -> str:
        program, count = self.program, len(self.program.threads)
        done = [f"done_{n}" for n in range(count)]
        threads = [
            self.thread(n, steps, [done[n]], [f"    smp_store_release({done[n]}, 1);"])
            for n, steps in enumerate(program.threads)
        ]
        reads = [f"    d{n} = smp_load_acquire({name});" for n, name in enumerate(done)]
        judged = [f"    if ({' & '.join(f'(d{n} == 1)' for n in range(count))}) {{", *self.block(program.judgement, 2), "    }"]
        if program.judgement:
            threads.append(self.thread(count, program.judgement, done, [*reads, *judged], count))
        starts = [
            f"    atomic_t {self.names[loc]} = ATOMIC_INIT({self.number(place.start)});"
            if place.atomic
            else f"    int {self.names[loc]} = {self.number(place.start)};"
            for loc, place in program.places.items()
        ]
        starts += [f"    int {name} = 0;" for name in done]
        wrong = [f"{n}:bad=1" for n, text in enumerate(threads) if any("    bad = 1;" in line for line in text)]
        if not wrong:
            raise Refused("it asserts nothing: only a race of plain accesses would be found")
        lines = [
            f"C {re.sub(r'[^A-Za-z0-9]+', '-', program.name)}{f'+{self.mutation}' if self.mutation else ''}",
            "",
            *["(*", " * Result: Never, and no data race", " *"],
            *[f" * {line}".rstrip() for line in self.about()],
            *[f" * {line}".rstrip() for line in self.differences()],
            *[" *)", "", "{", *starts, "}", ""],
            *[line for thread in threads for line in thread],
        ]
        if program.judgement:
            last = " /\\ ".join(f"{count}:d{n}=1" for n in range(count))
            lines.append(f"filter ({last})")
        either = " \\/ ".join(wrong)
        return "\n".join([*lines, f"exists ({either})"]) + "\n"

    def differences(self) -> list[str]:
        return [
            f"FROZEN is {SMALL['FROZEN']} here, and REF_MAX {SMALL['REF_MAX']}.",
            "bad is 1 in a thread whose assertion failed.",
            "The last thread is the judgement: it comes after all others.",
            "The order of a release through a chain of atomic operations needs",
            "a linux-kernel.cat with rmw-sequence.",
            "herd7 -conf linux-kernel.cfg THIS_FILE",
        ]

    def thread(self, n: int, steps: list[Step], done: list[str], end: list[str], waits: int = 0) -> list[str]:
        used = dict.fromkeys(_used(steps))
        parameters = [f"{'atomic_t' if self.program.places[loc].atomic else 'int'} *{self.names[loc]}" for loc in used]
        parameters += [f"int *{name}" for name in done]
        body = [] if waits else list(self.block(steps, 1))
        declared = [f"    int r{register};" for register in _registers(steps)] + [f"    int d{n};" for n in range(waits)]
        marks = any("bad = 1;" in line for line in (*body, *end))
        bad = ["    int bad;", "    bad = 0;"] if marks else []
        return [f"P{n}({', '.join(parameters)})", "{", *declared, *bad, *body, *end, "}", ""]

    def wrong(self, message: str) -> str:
        return f"bad = 1; /* {_plain(message)} */"

    def operation(self, op: Op) -> str:
        if op.loc is None:
            if op.order not in ("seq_cst", "acq_rel"):
                raise Refused(f"the kernel's memory model has no fence of {op.order} only")
            return "smp_mb()"
        name, place = self.of(op)
        values = [self.operand(value) for value in op.values]
        if op.what in ("read", "write") or not place.atomic:
            return f"*{name} = {values[0]}" if values else f"*{name}"
        suffix = SUFFIX[op.order]
        if op.what in ("load", "peek"):
            return f"atomic_read{'_acquire' if op.order != 'relaxed' else ''}({name})"
        if op.what == "store":
            return f"atomic_set{'_release' if op.order != 'relaxed' else ''}({name}, {values[0]})"
        if op.what == "cmpxchg":
            return f"atomic_cmpxchg{suffix}({name}, {values[0]}, {values[1]})"
        if op.what == "exchange":
            return f"atomic_xchg{suffix}({name}, {values[0]})"
        return f"atomic_fetch_{op.what}{suffix}({values[0]}, {name})"


def _identifier(name: str, taken: Iterable[str]) -> str:
    made = re.sub(r"\W+", "_", name.replace("'", "_2")).strip("_") or "word"
    if RESERVED.fullmatch(made) or not made[0].isalpha():
        made = f"word_{made}"
    while made in taken:
        made += "_"
    return made


def _plain(message: str) -> str:
    return re.sub(r"[^\w ,:;.()-]", " ", message)


def _walk(steps: list[Step]) -> Iterator[Op]:
    for step in steps:
        if isinstance(step, Branch):
            yield from _walk(step.yes)
            yield from _walk(step.no)
        elif isinstance(step, Op):
            yield step


def _registers(steps: list[Step]) -> list[int]:
    return sorted({op.register for op in _walk(steps) if op.register is not None})


def _used(steps: list[Step]) -> list[Loc]:
    return [op.loc for op in _walk(steps) if op.loc is not None]
