"""A plugin of pytest that runs the collected tests once for each mutant: those that reach it, until one fails.

``mutate`` starts it: ``python -m pytest -p foliocache.check.unit_tests --mutate FILE tests/mm``. FILE is JSON; the answers are
appended to the file that it names, a line for each mutant, so what has been found is kept if the run ends early.

First every test runs once in a child process, with probes (``reach``), which says what each test reaches and how long it takes.
Then each mutant has a child of its own, forked from this process with everything imported. The mutated function replaces its
code object in the copies of the package that are loaded already; ``loader.load`` makes the change in those that a test loads. A
mutant may never end: each test has a limit of processor time, after which the kernel ends the child.
"""

from __future__ import annotations

import ast
import contextlib
import gc
import itertools
import json
import os
import resource
import select
import signal
import sys
import time
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

from . import answers, loader, mutants, reach
from .mutants import Mutant
from .mutation import Mismatch, Mutation

ROOM = 0.4, 6.0  # a test may take so many seconds of processor time more, and so many times what it took without a mutant
SPARE = 0.02  # so many of the tests may fail without a mutant, on a busy machine: they are left out
PATIENCE = 240.0  # seconds until a child that says nothing counts as hung
ASLEEP = 10.0  # and until one that uses no processor time besides does


def pytest_addoption(parser: Any) -> None:
    parser.addoption("--mutate", metavar="FILE", help="run the tests for the mutants that this file (JSON) asks for")


def pytest_configure(config: Any) -> None:
    wanted = config.getoption("--mutate")
    if wanted:
        config.pluginmanager.register(Runner(json.loads(Path(wanted).read_text())), "mutants")


class Runner:
    """The plugin while mutants are tried. ``wanted`` has ``package``; ``mutants``: for each its ``key`` and a digest of its
    function; ``effort``: how many seconds the tests of one may take together; and the files ``answers`` and ``reached``."""

    def __init__(self, wanted: dict[str, Any]) -> None:
        self.package: Path = Path(wanted["package"])
        self.wanted: list[Any] = wanted["mutants"]
        self.effort: float = wanted["effort"]
        self.parent: int = os.getppid()
        self.answers: Path = Path(wanted["answers"])
        self.reached: Path = Path(wanted["reached"])
        self.cores: list[loader.Core] = []
        self.mutations: tuple[Mutation, ...] = ()
        self.failed: bool = False
        self.killers: dict[str, int] = {}
        self.tests: dict[str, Any] = {}  # by node id: what it reaches, and the seconds that it takes
        self.index: dict[str, list[str]] = {}  # by what is reached
        self._load = loader.load
        loader.load = self.load

    def load(
        self, package: Path, facade: types.ModuleType, overrides: Any = None, mutations: Any = (), name: Any = None
    ) -> Any:
        try:
            core = self._load(package, facade, overrides, (*mutations, *self.mutations), name)
        except Mismatch:  # the test has another mutation there
            core = self._load(package, facade, overrides, mutations, name)
        self.cores.append(core)
        return core

    # Running tests.

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.failed = self.failed or report.failed

    def pytest_runtestloop(self, session: Any) -> bool:
        items = {item.nodeid: item for item in session.items if "compiled" not in item.name}
        with _quiet():
            self.tests = self.known(items)
            self.index = {}
            for nodeid, test in self.tests.items():
                for point in test["reaches"]:
                    self.index.setdefault(point, []).append(nodeid)
            self._load(self.package, types.ModuleType(loader.FACADE)).detach()  # from now on, its source is compiled
            gc.collect()
            gc.freeze()
            with self.answers.open("a") as out:
                for wanted, text in self.wanted:
                    if os.getppid() != self.parent:
                        return True
                    mutant = mutant_of(self.package, wanted)
                    if mutant is None:  # the source has changed since
                        continue
                    answer = self.tried(mutant, items)
                    out.write(json.dumps(answer | {"key": wanted, "text": text}) + "\n")
                    out.flush()
        return True

    def passes(self, item: Any) -> bool:
        self.failed = False
        item.repr_failure = lambda *args, **kwargs: "fails"  # the whole traceback takes longer than most tests
        item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
        return not self.failed

    # What each test reaches.

    def known(self, items: dict[str, Any]) -> dict[str, Any]:
        """Return what each test reaches, from a file if there is one, else by running all of them."""
        if not self.reached.exists():
            told, status = _in_child(lambda out: json.dump(self.baseline(items), out), 3600)
            found = json.loads(told) if status == 0 else {"tests": {}, "failed": ["the tests' child"]}
            if len(found["failed"]) > len(found["tests"]) * SPARE:
                raise RuntimeError(f"without a mutant, these fail: {', '.join(found['failed'])}")
            self.reached.write_text(told)
        tests: dict[str, Any] = json.loads(self.reached.read_text())["tests"]
        return {nodeid: test for nodeid, test in tests.items() if nodeid in items}

    def baseline(self, items: dict[str, Any]) -> dict[str, Any]:
        self.mutations = reach.probes(self.package)
        for core in self.cores:
            for probe in reach.probes(self.package):
                patch(core, self.package, probe)
        tests, failed = {}, []
        for nodeid, item in items.items():
            reach.hits.clear()
            begun = time.process_time()
            if not self.passes(item):
                failed.append(nodeid)
                continue
            tests[nodeid] = {
                "seconds": time.process_time() - begun,
                "reaches": sorted(point for point in reach.hits if point.count(":") == 1),
            }
        return {"tests": tests, "failed": failed}

    # Mutants.

    def tried(self, mutant: Mutant, items: dict[str, Any]) -> dict[str, Any]:
        """Return the answer for one mutant: which test finds it, and how; or that none does."""
        chosen = self.chosen(mutant)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        told, status = _in_child(lambda out: self.first_to_fail(out, mutant, chosen, items), PATIENCE)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        *begun, verdict = ["", *told.split()]
        if status:
            begun, verdict = [*begun, verdict], "limit" if -status in (signal.SIGVTALRM, signal.SIGKILL) else "dies"
        by = chosen[int(begun[-1])] if begun[-1:] not in ([], [""]) and verdict != "survives" else ""
        if by:
            self.killers[by] = self.killers.get(by, 0) + 1
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return {"verdict": verdict, "by": by, "seconds": round(seconds, 3), "tests": len(chosen)}

    def chosen(self, mutant: Mutant) -> list[str]:
        """Return the tests that reach a mutant: those that have found others first, then the fastest first; no more than
        ``effort`` seconds of them."""
        point = f"{mutant.module}:{statement_of(self.package, mutant)}"
        cost = lambda nodeid: (self.tests[nodeid]["seconds"] + 0.005) / (1 + self.killers.get(nodeid, 0))  # noqa: E731
        tests = sorted(self.index.get(point, ()), key=cost)
        ends = itertools.accumulate(self.tests[nodeid]["seconds"] for nodeid in tests)
        return tests[: 1 + sum(end < self.effort for end in ends)]

    def first_to_fail(self, out: IO[str], mutant: Mutant, chosen: Sequence[str], items: dict[str, Any]) -> None:
        self.mutations = (mutant,)
        for core in self.cores:
            patch(core, self.package, mutant)
        more, times = ROOM
        for number, nodeid in enumerate(chosen):
            print(number, file=out, flush=True)
            signal.setitimer(signal.ITIMER_VIRTUAL, more + times * self.tests[nodeid]["seconds"])
            if not self.passes(items[nodeid]):
                print("fails", file=out)
                return
            signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        print("survives", file=out)


def mutant_of(package: Path, wanted: Iterable[Any]) -> Mutant | None:
    module, function, *_ = wanted = tuple(wanted)
    source = (package / f"{module}.py").read_text()
    return next((m for m in mutants.mutants_of(source, module, function) if tuple(answers.key(m)) == wanted), None)


def statement_of(package: Path, mutant: Mutant) -> int:
    """Return the line of the innermost statement that a mutant is in: what is counted as reached."""
    lines = reach.points(package, mutant.module).lines[mutant.function]
    return max(line for line in (int(each.partition(":")[2]) for each in lines) if line <= mutant.line)


def patch(core: loader.Core, package: Path, mutation: Mutation) -> None:
    """Change a loaded module of a core: give its functions the code that they have after the mutation."""
    module = sys.modules.get(f"{core.name}.{mutation.module}")
    if module is None:
        return
    file = str(package / f"{mutation.module}.py")
    wanted = mutation.function if isinstance(mutation, Mutant) else None
    vars(module)["__hit__"] = reach.hit
    for name, node in mutants.functions(ast.parse(mutation.apply(Path(file).read_text()), file)):
        if wanted in (None, name):
            thing: Any = module
            for part in name.split("."):
                thing = getattr(thing, part)
            thing.__code__ = _code(node, file, thing.__qualname__)


def _code(node: Any, file: str, qualname: str) -> types.CodeType:
    made = compile(ast.Module([node], []), file, "exec")
    code = next(each for each in made.co_consts if isinstance(each, types.CodeType) and each.co_name == node.name)
    return code.replace(co_qualname=qualname)


def _in_child(work: Callable[[IO[str]], Any], patience: float) -> tuple[str, int]:
    """Run ``work`` in a forked child. Return what it writes, and its exit status: below 0, the signal that ended it.

    A child that writes nothing for ``patience`` seconds is killed, and one that only sleeps earlier.
    """
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            os.close(ours)
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            signal.signal(signal.SIGVTALRM, signal.SIG_DFL)
            with os.fdopen(theirs, "w") as out:
                work(out)
            status = 0
        finally:
            os._exit(status)
    os.close(theirs)
    told = b""
    with os.fdopen(ours, "rb", 0) as pipe:
        while True:
            if _is_hung(pid, pipe, patience):
                os.kill(pid, signal.SIGKILL)
                break
            part = pipe.read(65536)
            if not part:
                break
            told += part
    return told.decode(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _is_hung(pid: int, pipe: IO[bytes], patience: float) -> bool:
    """Wait until a child writes something. Return True if it does not."""
    end, before = time.monotonic() + patience, ""
    while not select.select([pipe], [], [], ASLEEP)[0]:
        # Its state, and its clock ticks in user and kernel mode.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        now = " ".join((fields[0], *fields[11:13]))
        if time.monotonic() > end or (now == before and fields[0] == "S"):
            return True
        before = now
    return False


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Let nothing be printed: the tests' reports are of no interest."""
    kept = os.dup(1)
    with open(os.devnull, "w") as null:
        os.dup2(null.fileno(), 1)
    try:
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)
