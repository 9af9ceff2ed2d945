"""``--export``: what is written has the syntax of the other tools, and is the same program as the scenario.

A litmus test is read back by a parser of the grammar that herd7 publishes (``lib/CLexer.mll`` and ``lib/CParser.mly``: the part
that the tests of the Linux kernel use), and explored: the verdicts, and the numbers of executions, are those of the scenario.
The C is compiled by gcc, and run.
"""

import dataclasses
import re
import shutil
import subprocess

import pytest

from foliocache.check import facade_model as a
from foliocache.check.export_text import export
from foliocache.check.export_words import Refused
from foliocache.check.program import Program, explore
from foliocache.check.scenarios import load_all

SCENARIOS = load_all()
CORE = ("put/parallel", "put/parallel-reuse", "put/revive", "put/aba", "freeze/gets", "get/overflow")
TOKEN = re.compile(r"\s+|/\*.*?\*/|(\d+)|([A-Za-z_]\w*)|(==|!=|<=|>=|[-{}();,*=<>|&+])", re.DOTALL)
LEVELS = (("|",), ("&",), ("==", "!=", "<", "<=", ">", ">="), ("+", "-"))  # the loosest first
MAKE = {
    "|": lambda x, y: x | y, "&": lambda x, y: x & y, "+": lambda x, y: x + y, "-": lambda x, y: x - y,
    "==": lambda x, y: int(x == y), "!=": lambda x, y: int(x != y), "<": lambda x, y: int(x < y),
    "<=": lambda x, y: int(x <= y), ">": lambda x, y: int(x > y), ">=": lambda x, y: int(x >= y),
}  # fmt: skip


class Parser:
    """The body of a function, as a closure that runs it."""

    def __init__(self, text, parameters):
        self.tokens, at = [], 0
        while at < len(text):
            match = TOKEN.match(text, at)
            assert match, text[at : at + 30]
            at = match.end()
            self.tokens += [match.group()] if match.lastindex else []
        self.tokens.append("")
        self.at, self.parameters, self.declared = 0, parameters, set()

    def next(self, wanted=None):
        token = self.tokens[self.at]
        assert wanted in (None, token), f"{wanted} is expected at {' '.join(self.tokens[self.at - 5 : self.at + 5])}"
        self.at += 1
        return token

    def peek(self, token):
        return self.tokens[self.at] == token

    def body(self):
        steps = []
        while not self.peek(""):
            steps += self.declaration() if self.peek("int") else [self.instruction()]
        assert steps, "an empty body"
        return lambda mem, env: [step(mem, env) for step in steps]

    def declaration(self):
        self.next("int")
        self.declared.add(self.next())
        self.next(";")
        return []

    def instruction(self):
        if self.peek("{"):
            self.next("{")
            steps = []
            while not self.peek("}"):
                steps.append(self.instruction())
            self.next("}")
            assert steps, "the grammar has no empty block"
            return lambda mem, env: [step(mem, env) for step in steps]
        if self.peek("if"):
            self.next("if")
            self.next("(")
            when = self.expression()
            self.next(")")
            yes, no = self.instruction(), lambda mem, env: None
            if self.peek("else"):
                self.next("else")
                no = self.instruction()
            return lambda mem, env: yes(mem, env) if when(mem, env) else no(mem, env)
        if self.peek("*"):
            self.next("*")
            loc = self.location()
            self.next("=")
            value = self.expression()
            self.next(";")
            return lambda mem, env: a.write32(mem, loc, value(mem, env))
        name = self.next()
        if self.peek("("):
            call = self.call(name)
            self.next(";")
            return call
        assert name in self.declared, name
        self.next("=")
        value = self.expression()
        self.next(";")
        return lambda mem, env: env.__setitem__(name, value(mem, env))

    def location(self):
        name = self.next()
        assert name in self.parameters, name
        return self.parameters.index(name) if isinstance(self.parameters, list) else self.parameters[name]

    def expression(self, level=0):
        if level == len(LEVELS):
            return self.primary()
        left = self.expression(level + 1)
        while self.tokens[self.at] in LEVELS[level]:
            make, first, second = MAKE[self.next()], left, self.expression(level + 1)
            left = lambda mem, env, make=make, x=first, y=second: make(x(mem, env), y(mem, env))  # noqa: E731
        return left

    def primary(self):
        token = self.next()
        if token == "(":
            inside = self.expression()
            self.next(")")
            return inside
        if token == "*":
            loc = self.location()
            return lambda mem, env: a.read32(mem, loc)
        if token.isdigit():
            return lambda mem, env: int(token)
        if self.peek("("):
            return self.call(token)
        assert token in self.declared, token
        return lambda mem, env: env[token]

    def call(self, name):
        """Return a call of one of the macros of tools/memory-model/linux-kernel.def."""
        self.next("(")
        if name == "smp_mb":
            self.next(")")
            return lambda mem, env: a.fence_seq_cst()
        order = next((o for o in ("relaxed", "acquire", "release") if name.endswith("_" + o)), None)
        short = name.removesuffix(f"_{order}") if order else name
        if short.startswith("atomic_fetch_"):
            value = self.expression()
            self.next(",")
            loc = self.location()
            operands = [value]
        else:
            loc = self.location()
            operands = []
            while self.peek(","):
                self.next(",")
                operands.append(self.expression())
        self.next(")")
        what, kind = {
            "smp_store": ("store", order), "smp_load": ("load", order),
            "atomic_read": ("load", order or "relaxed"), "atomic_set": ("store", order or "relaxed"),
            "atomic_xchg": ("exchange", order or "seq_cst"), "atomic_cmpxchg": ("cmpxchg", order or "seq_cst"),
        }.get(short, (short.removeprefix("atomic_"), order or "seq_cst"))  # fmt: skip
        operation = getattr(a, f"{what}_{kind}")
        return lambda mem, env: operation(mem, loc, *[operand(mem, env) for operand in operands])


def parsed(text):
    """Return a litmus test as a Program: its last thread is the judgement."""
    head, rest = re.fullmatch(r"C \S+\n\n\(\*.*?\*\)\n\n\{\n(.*?)\}\n\n(.*)", text, re.DOTALL).groups()
    start, types = {}, {}
    for line in head.splitlines():
        name, value = (
            re.fullmatch(r" {4}(?:int (\w+) = \d+|atomic_t \w+ = ATOMIC_INIT\(\d+\));", line)
            and re.search(r"(\w+) = (?:ATOMIC_INIT\()?(\d+)", line).groups()
        )
        start[name] = int(value)
        types[name] = line.split()[0]
    places = {name: 64 * number for number, name in enumerate(start)}
    functions = re.findall(r"^P(\d+)\((.*?)\)\n\{\n(.*?)^\}\n", rest, re.DOTALL | re.MULTILINE)
    assert [int(number) for number, _, _ in functions] == list(range(len(functions)))
    runs = []
    for _, parameters, body in functions:
        given = [re.fullmatch(r"(atomic_t|int) \*(\w+)", one).groups() for one in parameters.split(", ")]
        assert all(types[name] == kind for kind, name in given)
        runs.append(Parser(body, {name: places[name] for _, name in given}).body())
    condition = re.search(r"^exists \((.*)\)\n\Z", rest, re.MULTILINE).group(1)
    judged = re.findall(r"(\d+):bad=1", condition)
    assert condition == " \\/ ".join(f"{number}:bad=1" for number in judged)
    assert judged == [number for number, _, body in functions if "bad = 1;" in body], (
        "exists asks every thread that may be wrong"
    )
    last = len(functions) - 1
    kept = re.search(r"^filter \((.*)\)$", rest, re.MULTILINE).group(1)
    assert kept == " /\\ ".join(f"{last}:d{number}=1" for number in range(last)), "the judgement is after all others"

    def thread(run):
        def runs_it(mem):
            env = {}
            run(mem, env)
            assert not env.get("bad")

        return runs_it

    def setup(mem):
        for name, loc in places.items():
            mem.values[loc] = start[name]

    def final(mem, results):
        env = {}
        runs[-1](mem, env)
        assert all(env[f"d{number}"] == 1 for number in range(last))
        assert not env["bad"]

    return Program([thread(run) for run in runs[:-1]], setup, final)


@pytest.mark.parametrize("name", CORE)
def test_a_litmus_test_is_the_same_program(name):
    which = SCENARIOS[name]
    theirs = explore(parsed(export(which, "herd")), "rc11")
    ours = explore(dataclasses.replace(which.program(), equal=()), "rc11")
    assert not theirs.failure
    assert theirs.executions == ours.executions


# A loop without a last round; and the fence of acquire alone, which the kernel has not; and two words compared with each other.
CANNOT = ("mainline", "cmpxchg-loop", "frozen-first")


@pytest.mark.parametrize(
    ("name", "bug"), [(name, bug) for name in CORE for bug in SCENARIOS[name].mutations() if bug not in CANNOT]
)
def test_a_bug_is_in_the_litmus_test_too(name, bug):
    which = SCENARIOS[name]
    failure = explore(parsed(export(which, "herd", bug)), "rc11").failure
    assert bool(failure) == (which.expected("rc11", bug) == "fails"), failure


def test_an_old_scheme_with_a_loop_is_refused():
    for bug in CANNOT:
        with pytest.raises(Refused):
            export(SCENARIOS["put/aba"], "herd", bug)


needs_gcc = pytest.mark.skipif(not shutil.which("gcc"), reason="no gcc")


@needs_gcc
@pytest.mark.parametrize("name", CORE)
def test_the_c_compiles_and_runs(name, tmp_path):
    source = tmp_path / "exported.c"
    source.write_text(export(SCENARIOS[name], "genmc"))
    flags = ["-std=c11", "-Wall", "-Wextra", "-Werror", "-Wno-unused-but-set-variable", "-O1", "-pthread"]
    subprocess.run(["gcc", *flags, str(source), "-o", str(tmp_path / "run")], check=True, timeout=60)
    for _ in range(20):
        subprocess.run([str(tmp_path / "run")], check=True, timeout=60)


@needs_gcc
def test_a_bug_without_a_race_fails_in_c(tmp_path):
    """Getters that leave their count behind: two threads that do not even have to meet."""
    source = tmp_path / "exported.c"
    source.write_text(export(SCENARIOS["get/overflow"], "genmc", "v4"))
    subprocess.run(["gcc", "-pthread", str(source), "-o", str(tmp_path / "run")], check=True, timeout=60)
    ran = subprocess.run([str(tmp_path / "run")], check=False, timeout=60, capture_output=True, text=True)
    assert ran.returncode != 0
    assert "Assertion" in ran.stderr


@pytest.mark.parametrize(("name", "why"), [
    ("death/put-put", "its threads may die"),
    ("lookup/evict", "waits for another thread"),
    ("names/lookup-reuse", "copies bytes"),
    ("large/merge", "judgement looks at what the threads have returned"),
])  # fmt: skip
@pytest.mark.parametrize("tool", ["genmc", "herd"])
def test_what_cannot_be_exported_is_refused_in_words(name, why, tool):
    with pytest.raises(Refused, match=why):
        export(SCENARIOS[name], tool)


def test_the_parser_refuses_what_the_grammar_has_not():
    for body in ("if (r0 == 1) {\n}\n", "r0 = 0x10;\n", "if (r0 == 1 && r0 == 2) { r0 = 1; }\n"):
        with pytest.raises(AssertionError):
            Parser(f"int r0;\n{body}", {}).body()


def test_the_command(capsys):
    from foliocache.cli.verify import verify

    assert verify("put/parallel", export="herd", mutate="sub-relaxed") == 0
    out, err = capsys.readouterr()
    assert out == export(SCENARIOS["put/parallel"], "herd", "sub-relaxed")
    assert err == ""
    assert verify("put/", export="genmc") == 2
    assert verify("lookup/evict", export="genmc") == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "foliocache: --export takes one scenario, and here are 4",
        "foliocache: lookup/evict cannot be exported: it waits for another thread",
    ]
