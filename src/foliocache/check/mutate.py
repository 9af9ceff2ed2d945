"""Mutation testing of a package: makes every bug of ``mutants`` in turn, and looks whether the tests or the scenarios notice.

``python -m foliocache.check.mutate [MODULE ...]`` is run in a checkout. A mutant is tried against the unit tests that reach it
(``unit_tests``), in the interpreted world; those that no test finds, against the scenarios that reach it, under rc11. What is
left must be *explained*: a file for each module says why a mutant is equivalent, or which scenario or slow test alone finds it.
A rule explains many, of which tests may find some. A file that says ``"looked at whole" = true`` is of a module whose mutants
have all been looked at. The exit code is 1 if a mutant of such a module is found by nothing and not explained, or if an
explanation is of no mutant, or of one that is found.

Answers are kept in ``build/mutate`` by the text of the function, so a run that was ended goes on where it was, and after a
change only the changed functions and the mutants that no test had found are tried again (all: ``--fresh``). ``--keep`` writes
what is known into a small file beside the explanations, from which ``--resume`` goes on in another checkout.

Weakened orders are left to ``coverage``: a unit test knows no orders.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import itertools
import json
import os
import random
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from . import answers, loader, mutants, parallel, reach, scenario, trial
from .answers import Answers
from .mutants import Mutant
from .unit_tests import statement_of

if TYPE_CHECKING:
    from .scenario import Suite

# How an explanation begins.
SCENARIO, TEST = "scenario ", "test "
SURVEY = 0.4  # seconds of a scenario, after which the rest of what it may reach is left out
# An exploration may take so many seconds, and so many times what it takes without a mutant.
EXPLORED = 0.5, 4.0
EVERY = "every function"  # the table of rules that are for all functions of a module
COMPLETE = "looked at whole"
PACKED = "answers.txt"


@dataclasses.dataclass
class Options:
    """Where the tests, the explanations and the answers of earlier runs are, and how many processes to use.

    ``effort``: seconds of the unit tests that are tried for one mutant, the fastest first, and of the scenarios. ``fresh``:
    forget earlier answers; ``resume``: try only what has no answer.
    """

    tests: Path = Path("tests/mm")
    explained: Path = Path("tests/check/survivors")
    kept: Path = Path("build/mutate")
    jobs: int = 1
    fresh: bool = False
    resume: bool = False
    effort: float = 4.0
    deselect: tuple[str, ...] = ()
    only: tuple[str, ...] = ()  # files of ``tests``; all, if it is empty


@dataclasses.dataclass
class Outcome:
    """What a run has found: ``by`` says for each mutant which test or scenario found it, "" if none did."""

    by: dict[Mutant, str]
    explained: dict[Mutant, str]
    stale: list[str]
    ruled: set[Mutant] = dataclasses.field(default_factory=set)  # those that are explained by a rule
    complete: set[str] = dataclasses.field(default_factory=set)  # modules whose mutants have all been looked at

    @property
    def left(self) -> list[Mutant]:
        return [m for m, by in self.by.items() if not by and m not in self.explained]

    @property
    def unexplained(self) -> list[Mutant]:
        return [m for m in self.left if m.module in self.complete]

    @property
    def open(self) -> list[Mutant]:
        """Found by nothing and not explained, in a module that has not been looked at whole."""
        return [m for m in self.left if m.module not in self.complete]

    @property
    def needless(self) -> list[Mutant]:
        """Explained as equivalent, and found nevertheless."""
        mine = {m: by for m, by in self.by.items() if m in self.explained and m not in self.ruled}
        return [m for m, by in mine.items() if by and not _finder(self.explained[m])]

    @property
    def wrong(self) -> list[Mutant]:
        """Explained by a scenario or test that does not find them."""
        return [m for m, by in self.by.items() if not by and _finder(self.explained.get(m, ""))]


def _finder(reason: str) -> str:
    return reason if reason.startswith((SCENARIO, TEST)) else ""


def modules_of(package: Path) -> list[str]:
    """Return the modules that have mutants: not the one in whose place is the facade, which is never run uncompiled."""
    return [each for each in loader.modules(package) if each != loader.FACADE and mutants.mutants(package, each)]


def all_of(package: Path, modules: Iterable[str]) -> list[Mutant]:
    return [m for module in modules for m in mutants.mutants(package, module) if m.how != "weaken"]


def sample(found: Sequence[Mutant], size: int, seed: int) -> list[Mutant]:
    return random.Random(seed).sample(found, min(size, len(found)))


@dataclasses.dataclass
class Explanations:
    """The reason of each explained mutant, those that a rule explains, and the explanations that are of no mutant."""

    reasons: dict[Mutant, str] = dataclasses.field(default_factory=dict)
    ruled: set[Mutant] = dataclasses.field(default_factory=set)
    stale: list[str] = dataclasses.field(default_factory=list)
    complete: set[str] = dataclasses.field(default_factory=set)


def explanations(folder: Path, package: Path, modules: Iterable[str]) -> Explanations:
    """Read what is explained.

    A file is called ``MODULE.toml``; it has a table for each function, and perhaps one called ``every function``. A key is
    ``Mutant.text``, or a rule: a regular expression between slashes, for all mutants whose whole text it matches. A reason may
    be the name of one in the table ``reasons``. ``"looked at whole" = true`` is above all tables if all mutants of
    the module have been.
    """
    found = Explanations()
    for module in modules:
        file = folder / f"{module}.toml"
        if file.exists():
            _explain(found, module, tomllib.loads(file.read_text()), mutants.mutants(package, module))
    return found


def _explain(found: Explanations, module: str, tables: dict[str, Any], known: Sequence[Mutant]) -> None:
    reasons = tables.pop("reasons", {})
    found.complete.update([module] if tables.pop(COMPLETE, False) else ())
    used = set()
    for function, table in tables.items():
        there = [m for m in known if function in (EVERY, m.function)]
        for text, reason in table.items():
            used.add(reason)
            rule = re.compile(text[1:-1]) if len(text) > 2 and text[0] == text[-1] == "/" else None
            meant = [m for m in there if (rule.fullmatch(m.text) if rule else m.text == text)]
            for mutant in meant:
                if mutant not in found.reasons:  # the first says it
                    found.reasons[mutant] = reasons.get(reason, reason)
                    found.ruled.update([mutant] if rule else ())
            if not meant:
                found.stale.append(f"{module}.{function}: {text}")
    found.stale += [f"{module}: reason {name!r}" for name in reasons if name not in used]


def run(suite: Suite, modules: Sequence[str], wanted: Sequence[Mutant], options: Options) -> Outcome:
    """Try the mutants ``wanted`` of ``modules``, except those that are explained by what finds them, and are not ``fresh``."""
    found = explanations(options.explained, suite.package, modules)
    by = unit_tests(suite, wanted, options)
    left = [m for m in wanted if not by[m]]
    by.update(scenarios(suite, left, found.reasons, options))
    return Outcome(by, found.reasons, found.stale, found.ruled, found.complete)


def known_answers(package: Path, modules: Iterable[str], options: Options) -> Answers:
    """Return what earlier runs have found here, and with ``resume`` also what is committed."""
    modules = list(modules)
    texts, packed = answers.texts(package, modules), options.explained / PACKED
    found = answers.unpack(package, modules, packed.read_text()) if options.resume and packed.exists() else Answers()
    found.tests.update(answers.read(options.kept / "answers.jsonl", texts))
    found.scenarios.update(answers.read(options.kept / "scenarios.jsonl", texts))
    return found


def keep(package: Path, options: Options) -> None:
    """Write what is known into the small file."""
    modules = modules_of(package)
    found = known_answers(package, modules, dataclasses.replace(options, resume=True))
    (options.explained / PACKED).write_text(answers.pack(package, modules, found))


# Unit tests.


def unit_tests(suite: Suite, wanted: Sequence[Mutant], options: Options) -> dict[Mutant, str]:
    """Return which unit test finds each mutant; "" if none does."""
    options.kept.mkdir(parents=True, exist_ok=True)
    reached = reached_by_tests(suite.package, options)
    file = options.kept / "answers.jsonl"
    if options.fresh:
        for each in (file, options.kept / "scenarios.jsonl"):
            each.unlink(missing_ok=True)
    modules = {m.module for m in wanted}
    texts = answers.texts(suite.package, modules)
    known = known_answers(suite.package, modules, options).tests
    todo = [m for m in wanted if m not in known or not (known[m] or options.resume)]
    if todo:
        parts = [todo[n :: options.jobs] for n in range(options.jobs if reached.exists() else 1)]
        asked = {"package": str(suite.package), "effort": options.effort, "answers": str(file), "reached": str(reached)}
        pairs = [[(answers.key(m), texts[m.module, m.function]) for m in part] for part in parts if part]
        for process, log in [_pytest(asked | {"mutants": each}, options, n) for n, each in enumerate(pairs)]:
            if process.wait() != 0:
                raise RuntimeError(f"the tests' process has ended with {process.returncode}: see {log}")
        known = known_answers(suite.package, modules, options).tests
    return {m: known.get(m, "") for m in wanted}


def reached_by_tests(package: Path, options: Options) -> Path:
    """Return the file that says what each unit test reaches, if there is one: another after a change of anything but a test."""
    others = sorted(file for file in options.tests.rglob("*.py") if not file.name.startswith("test_"))
    return options.kept / f"tests-{_digest(package, *others)}-{len(options.deselect)}.json"


def _pytest(asked: dict[str, Any], options: Options, n: int) -> tuple[subprocess.Popen[bytes], Path]:
    log, file = (options.kept / f"asked-{os.getpid()}-{n}.{kind}" for kind in ("log", "json"))
    file.write_text(json.dumps(asked))
    command = [
        sys.executable, "-m", "pytest", "-q", "-s", "-p", f"{__package__}.unit_tests", "-p", "no:cacheprovider",
        "--hypothesis-profile=mutants", "--mutate", str(file), "-k", "not compiled", *(options.only or [str(options.tests)]),
        *(f"--deselect={each}" for each in options.deselect),
    ]  # fmt: skip
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log.open("w"), stderr=subprocess.STDOUT), log


def _digest(*things: Path) -> str:
    """Return a digest of files, and of all source in folders."""
    found = hashlib.sha256()
    for thing in things:
        for file in sorted(thing.rglob("*.py")) if thing.is_dir() else [thing]:
            found.update(file.read_bytes())
    return found.hexdigest()[:16]


# Scenarios.


def scenarios(suite: Suite, wanted: Sequence[Mutant], explained: dict[Mutant, str], options: Options) -> dict[Mutant, str]:
    """Return which scenario finds each mutant; "" if none does. One that is explained by a scenario is tried there only, one
    that is explained as equivalent nowhere, unless the run is ``fresh``."""
    modules = {m.module for m in wanted}
    known = known_answers(suite.package, modules, options).scenarios if options.resume else {}
    found = {m: known[m] for m in wanted if m in known}
    sure: dict[Mutant, str] = {}
    rest = []
    for mutant in wanted:
        reason = explained.get(mutant, "")
        if reason.startswith(SCENARIO):
            sure[mutant] = reason.removeprefix(SCENARIO)
        elif mutant not in found and (options.fresh or not reason):
            rest.append(mutant)
    texts = answers.texts(suite.package, modules)
    surveyed = reached_by_scenarios(suite, options) if rest else {}
    for which in {*sure.values(), *surveyed}:
        suite.scenarios[which].program()  # from now on, its source is compiled
    killers: Counter[tuple[str, str]] = Counter()

    def tasks() -> Iterator[tuple[Mutant, list[tuple[str, float]]]]:
        yield from ((mutant, [(which, trial.BUDGET)]) for mutant, which in sure.items())
        more, times = EXPLORED
        for mutant in rest:
            names = _asked(suite, mutant, surveyed, killers, options.effort)
            yield mutant, [(name, more + times * surveyed[name][1]) for name in names]

    with (options.kept / "scenarios.jsonl").open("a") as out:
        for (mutant, _), by in parallel.each(lambda task: found_by(suite, *task), tasks(), options.jobs):
            found[mutant] = by
            killers[mutant.place, by] += 1
            out.write(answers.line(mutant, texts[mutant.module, mutant.function], by))
            out.flush()
    return {m: found.get(m, "") for m in wanted}


def _asked(
    suite: Suite,
    mutant: Mutant,
    surveyed: Mapping[str, tuple[set[str], float]],
    killers: Mapping[tuple[str, str], int],
    effort: float,
) -> list[str]:
    """Return the scenarios that reach a mutant, no more than ``effort`` seconds of them: those first that have found others of
    the same function, then the fastest."""
    point = f"{mutant.module}:{statement_of(suite.package, mutant)}"
    names = [name for name, (points, _) in surveyed.items() if point in points]
    names.sort(key=lambda name: (-killers[mutant.place, SCENARIO + name], surveyed[name][1]))
    ends = itertools.accumulate(surveyed[name][1] for name in names)
    return names[: 1 + sum(end < effort for end in ends)]


def reached_by_scenarios(suite: Suite, options: Options) -> dict[str, tuple[set[str], float]]:
    """Return what each scenario reaches in ``SURVEY`` seconds, and how many it takes, from a file if there is one."""
    file = options.kept / f"scenarios-{_digest(suite.package, Path(__file__).parent / 'scenarios')}.json"
    if not file.exists():
        surveyed = reach.survey(suite, options.jobs, SURVEY)
        file.write_text(json.dumps({name: (sorted(points), seconds) for name, (points, seconds) in surveyed.items()}))
    return {name: (set(points), seconds) for name, (points, seconds) in json.loads(file.read_text()).items()}


def found_by(suite: Suite, mutant: Mutant, asked: Iterable[tuple[str, float]]) -> str:
    """Return "scenario NAME" of the first of these scenarios that fails with the mutant within its seconds, else ""."""
    for name, budget in asked:
        if trial.found(suite.scenarios[name], mutant, budget):
            return f"{SCENARIO}{name}"
    return ""


# The command.


def report(outcome: Outcome) -> int:
    """Print what has been found, and return the exit code."""
    for title, found in (
        ("found by nothing, and not explained", outcome.unexplained),
        ("found by nothing, in a module that was not looked at whole", outcome.open),
        ("explained as equivalent, and found", outcome.needless),
        ("not found by what it says in the explanation", outcome.wrong),
    ):
        if found:
            print(f"{title}:")
            for mutant in found:
                by = outcome.by[mutant]
                print(f"  {mutant.place} line {mutant.line}: {mutant.text}{f'  ({by})' if by else ''}")
    for each in outcome.stale:
        print(f"explained, but there is no such mutant: {each}")
    tests = sum(bool(by) and not by.startswith(SCENARIO) for by in outcome.by.values())
    others = sum(by.startswith(SCENARIO) for by in outcome.by.values())
    left = len(outcome.by) - tests - others
    print(f"{len(outcome.by)} mutants: {tests} found by unit tests, {others} by scenarios, {left} by neither", end="")
    print(f", of which {left - len(outcome.left)} are explained")
    return 1 if outcome.unexplained or outcome.needless or outcome.wrong or outcome.stale else 0


def listed(outcome: Outcome) -> str:
    """Return the lines for the files of explanations of what is found by scenarios only, or not explained."""
    lines, at = [], ""
    for mutant, by in outcome.by.items():
        if mutant not in outcome.explained and (not by or by.startswith(SCENARIO)):
            if mutant.place != at:
                at = mutant.place
                lines.append(f"\n# {at}\n[{json.dumps(mutant.function)}]")
            lines.append(f"{json.dumps(mutant.text)} = {json.dumps(by)}")
    return "\n".join(lines)


def main(suite: Suite, arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("module", nargs="*", help="modules of the package; all, if none is named")
    parser.add_argument("--sample", type=int, metavar="N", help="try so many of the mutants, chosen at random")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    parser.add_argument(
        "--fresh", action="store_true", help="forget the answers of earlier runs, and try explained mutants, too"
    )
    parser.add_argument("--resume", action="store_true", help="try only mutants that earlier runs did not come to")
    parser.add_argument("--keep", action="store_true", help="write what is known into tests/check/survivors/answers.txt")
    parser.add_argument("--effort", type=float, default=4.0, help="seconds of unit tests for one mutant, and of scenarios")
    parser.add_argument("--deselect", action="append", default=[], metavar="TEST", help="leave this test out, as in pytest")
    parser.add_argument("--only", action="append", default=[], metavar="FILE", help="try these unit tests alone")
    parser.add_argument("--list", action="store_true", help="print lines for the files of explanations")
    given = parser.parse_args(arguments)
    there = modules_of(suite.package)
    unknown = set(given.module) - set(there)
    if unknown:
        parser.error(f"no module {', '.join(sorted(unknown))}; there are {', '.join(there)}")
    modules = given.module or there
    wanted = all_of(suite.package, modules)
    if given.sample is not None:
        wanted = sample(wanted, given.sample, given.seed)
    options = Options(
        jobs=given.jobs, fresh=given.fresh, resume=given.resume, effort=given.effort, deselect=tuple(given.deselect),
        only=tuple(given.only),
    )  # fmt: skip
    if not options.tests.is_dir():
        parser.error(f"no folder {options.tests}: this is run in a checkout")
    outcome = run(suite, modules, wanted, options)
    if given.keep:
        keep(suite.package, options)
    if given.list:
        print(listed(outcome))
    return report(outcome)


if __name__ == "__main__":
    sys.exit(main(scenario.load_suite("foliocache.check.scenarios")))
