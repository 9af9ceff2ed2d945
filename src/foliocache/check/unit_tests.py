"""A plugin of pytest that runs the collected tests once for each mutant: those that reach it, until one fails.

``mutate`` starts it: ``python -m pytest -p foliocache.check.unit_tests --mutate FILE tests/mm``. FILE is JSON; the answers are
appended to the file that it names, a line for each mutant, so what has been found is kept if the run ends early.

First every test runs once in a child process, with probes (``reach``), which says what each test reaches and how long it takes.
After a change of some of the files of tests, theirs alone run again. Then each mutant has a child of its own, forked from this
process with everything imported. The mutated function replaces its code object in the copies of the package that are loaded
already; ``loader.load`` makes the change in those that a test loads. A mutant may never end: each test has a limit of processor
time, after which the kernel ends the child, and one of sleep, after which this process does.
"""

from __future__ import annotations

import ast
import collections
import contextlib
import gc
import hashlib
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
ASLEEP = 3.0, 4.0  # or so many seconds more in sleep, and so many times those that the test takes without a mutant
ANY = ""  # for the digest of a test's file: it may be any
OWN = 5  # as if a test of the module had found so many mutants already
AKIN = 20  # a test that has found a mutant is tried earlier for others, and so much more for those of the same function
LOOK = 0.1  # seconds between two looks at whether it sleeps


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
        self.killers: collections.Counter[tuple[str, str]] = collections.Counter()  # by function ("": any) and test
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
        """Return what each test reaches, from a file, after running those of which it does not say so."""
        found: dict[str, Any] = json.loads(self.reached.read_text()) if self.reached.exists() else {}
        digests = {nodeid: _digest(item.path) for nodeid, item in items.items()}
        stale = [nodeid for nodeid in items if found.get(nodeid, {}).get("file") != digests[nodeid]]
        # A file with ANY was made for those tests that it names, and no others.
        wanted = {} if any(test["file"] == ANY for test in found.values()) else {nodeid: items[nodeid] for nodeid in stale}
        if wanted:
            told, status = _in_child(lambda out: json.dump(self.baseline(wanted), out), lambda _: PATIENCE * 20)
            if status:
                raise RuntimeError(f"without a mutant, the tests end with {status}")
            found |= {nodeid: test | {"file": digests[nodeid]} for nodeid, test in json.loads(told).items()}
            failed = [nodeid for nodeid in wanted if not found[nodeid]["passes"]]
            if len(failed) > 1 + len(wanted) * SPARE:
                raise RuntimeError(f"without a mutant, these fail: {', '.join(failed)}")
            written = self.reached.with_suffix(f".{os.getpid()}")
            written.write_text(json.dumps(found))
            written.replace(self.reached)
        return {nodeid: test for nodeid, test in found.items() if nodeid in items and test["passes"]}

    def baseline(self, items: dict[str, Any]) -> dict[str, Any]:
        self.mutations = reach.probes(self.package)
        for core in self.cores:
            for probe in reach.probes(self.package):
                patch(core, self.package, probe)
        tests = {}
        for nodeid, item in items.items():
            reach.hits.clear()
            begun, since = time.process_time(), time.monotonic()
            tests[nodeid] = {
                "passes": self.passes(item),
                "seconds": time.process_time() - begun,
                "wall": time.monotonic() - since,
                "reaches": sorted(point for point in reach.hits if point.count(":") == 1),
            }
        return tests

    # Mutants.

    def tried(self, mutant: Mutant, items: dict[str, Any]) -> dict[str, Any]:
        """Return the answer for one mutant: which test finds it, and how; or that none does."""
        chosen = self.chosen(mutant)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        told, status = _in_child(
            lambda out: self.first_to_fail(out, mutant, chosen, items), lambda told: self.asleep(told, chosen)
        )
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        *begun, verdict = ["", *told.split()]
        if status:
            begun, verdict = [*begun, verdict], "limit" if -status in (signal.SIGVTALRM, signal.SIGKILL) else "dies"
        by = chosen[int(begun[-1])] if begun[-1:] not in ([], [""]) and verdict != "survives" else ""
        if by:
            self.killers[mutant.place, by] += AKIN
            self.killers["", by] += 1
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        return {"verdict": verdict, "by": by, "seconds": round(seconds, 3), "tests": len(chosen)}

    def asleep(self, told: str, chosen: Sequence[str]) -> float:
        """Return how many seconds the test that was begun last may sleep."""
        more, times = ASLEEP
        number = told.rpartition("\n")[0].rpartition("\n")[2]
        return more + times * self.tests[chosen[int(number)]]["wall"] if number.isdecimal() else more

    def chosen(self, mutant: Mutant) -> list[str]:
        """Return the tests that reach a mutant, at most ``effort`` seconds of them. Those come first that have found others,
        of the same function above all, those of the module (``test_MODULE.py``), and the fastest."""
        point = f"{mutant.module}:{statement_of(self.package, mutant)}"
        own = f"/test_{mutant.module}.py::"

        def cost(nodeid: str) -> float:
            found = self.killers["", nodeid] + self.killers[mutant.place, nodeid] + OWN * (own in nodeid)
            return float((self.tests[nodeid]["seconds"] + 0.005) / (1 + found))

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


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def _in_child(work: Callable[[IO[str]], Any], asleep: Callable[[str], float]) -> tuple[str, int]:
    """Run ``work`` in a forked child. Return what it writes, and its exit status: below 0, the signal that ended it.

    A child that writes nothing for ``PATIENCE`` seconds is killed, and so is one that sleeps for more than ``asleep`` of what
    it has written so far.
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
            if _is_hung(pid, pipe, asleep(told[-32:].decode())):
                os.kill(pid, signal.SIGKILL)
                break
            part = pipe.read(65536)
            if not part:
                break
            told += part
    return told.decode(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _is_hung(pid: int, pipe: IO[bytes], asleep: float) -> bool:
    """Wait until a child writes something. Return True if it does not, or sleeps meanwhile for more than so many seconds."""
    begun = last = time.monotonic()
    while not select.select([pipe], [], [], LOOK)[0]:
        now = time.monotonic()
        asleep -= (now - last) * _sleeps(pid)
        last = now
        if asleep < 0 or now > begun + max(PATIENCE, asleep):
            return True
    return False


def _sleeps(pid: int) -> bool:
    """Return True if no thread of a process is running or ready to run at this moment."""
    states = []
    for task in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):
            states.append(task.read_text().rpartition(")")[2].split()[0])
    return "R" not in states


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
