"""Mutation testing: of a small package whole, with its tests and scenarios; and the explanations of the core's survivors."""

import dataclasses
import json
import signal
from pathlib import Path

import pytest
from sampled import sampled

from foliocache.check import loader, mutate, scenario, trial, unit_tests
from foliocache.check.program import Program
from foliocache.check.scenarios import CORE
from foliocache.check.unit_tests import ANY, statement_of

SUITE = scenario.load_suite("foliocache.check.scenarios")
ROOT = Path(__file__).parents[2]
EXPLAINED = Path(__file__).parent / "survivors"
PAIR = """
import cython
if not cython.compiled:
    from . import atomics

def post(mem, value):
    atomics.write32(mem, 64, value)
    atomics.store_release(mem, 0, 1)
    atomics.store_relaxed(mem, 128, value)

def full(mem):
    if atomics.load_acquire(mem, 0) == 0:
        return False
    return True
"""
TESTS = """
from pathlib import Path
import pytest
from foliocache.check import facade_threads, loader

@pytest.fixture
def pair():
    return loader.load(Path({package!r}), facade_threads).pair

def test_full(pair):
    mem = facade_threads.Memory(256)
    assert not pair.full(mem)
    pair.post(mem, 7)
    assert pair.full(mem)
"""
ANOTHER = """
from pathlib import Path
from foliocache.check import facade_threads, loader

def test_last():
    pair, mem = loader.load(Path({package!r}), facade_threads).pair, facade_threads.Memory(256)
    pair.post(mem, 7)
    assert facade_threads.load_relaxed(mem, 128) == 7
"""
CONFTEST = "from hypothesis import settings\nsettings.register_profile('mutants', settings.default)\n"


@pytest.fixture
def pair(tmp_path):
    """A package of one module, a suite of one scenario, and one test, which does not look at the value."""
    for folder in ("package", "tests", "explained"):
        (tmp_path / folder).mkdir()
    (tmp_path / "package" / "pair.py").write_text(PAIR)
    (tmp_path / "tests" / "conftest.py").write_text(CONFTEST)
    (tmp_path / "tests" / "test_pair.py").write_text(TESTS.format(package=str(tmp_path / "package")))
    suite = scenario.Suite(tmp_path / "package")

    @suite.scenario("pair/post")
    def post(core):
        def read(mem):
            if core.pair.full(mem):
                assert core.atomics.read32(mem, 64) == 7

        return Program([lambda mem: core.pair.post(mem, 7), read])

    (tmp_path / "explained" / "pair.toml").write_text('"looked at whole" = true')
    options = mutate.Options(tmp_path / "tests", tmp_path / "explained", tmp_path / "kept")
    return suite, options


def texts(found):
    return sorted(m.text for m in found)


LAST = "drop: atomics.store_relaxed(mem, 128, value)"
SWAPPED = "swap: atomics.store_release(mem, 0, 1) => atomics.store_relaxed(mem, 128, value)"


def test_a_package(pair, capsys):
    suite, options = pair
    wanted = mutate.all_of(suite.package, ["pair"])
    outcome = mutate.run(suite, ["pair"], wanted, options)
    by = {m.text: by.partition("::")[2] or by for m, by in outcome.by.items()}
    assert by["drop: atomics.store_release(mem, 0, 1)"] == "test_full"
    assert by["always: if atomics.load_acquire(mem, 0) == 0"] == "test_full"
    assert by["drop: atomics.write32(mem, 64, value)"] == "scenario pair/post"
    first = "swap: atomics.write32(mem, 64, value) => atomics.store_release(mem, 0, 1)"
    assert by[first] == "scenario pair/post"
    assert {LAST, SWAPPED} <= set(texts(outcome.unexplained)) and mutate.report(outcome) == 1
    assert f"pair.post line 9: {LAST}" in capsys.readouterr().out

    # What is left is explained, by its text and by a rule. The answers are kept: nothing is tried again.
    others = [m for m in outcome.unexplained if m.text not in (LAST, SWAPPED)]
    lines = [
        '"looked at whole" = true',
        "[reasons]",
        'unread = "no one reads it"',
        '["every function"]',
        "'/(drop|swap): .*128, value\\)/' = 'unread'",
    ]
    for function in dict.fromkeys(m.function for m in others):
        lines += [f"[{function}]", *(f"{json.dumps(m.text)} = 'equal'" for m in others if m.function == function)]
    file = options.explained / "pair.toml"
    file.write_text("\n".join(lines))
    answers = (options.kept / "answers.jsonl").read_text()
    outcome = mutate.run(suite, ["pair"], wanted, mutate.Options(options.tests, options.explained, options.kept, resume=True))
    assert (texts(outcome.unexplained), outcome.stale, mutate.report(outcome)) == ([], [], 0)
    assert outcome.explained[next(m for m in outcome.ruled if m.text == LAST)] == "no one reads it"
    assert (options.kept / "answers.jsonl").read_text() == answers

    # Elsewhere, a small file says all.
    mutate.keep(suite.package, options)
    elsewhere = dataclasses.replace(options, kept=options.kept / "elsewhere", resume=True)
    again = mutate.run(suite, ["pair"], wanted, elsewhere)
    assert {m for m, by in again.by.items() if by} == {m for m, by in outcome.by.items() if by}
    assert not (elsewhere.kept / "answers.jsonl").exists()

    # What is left in a module that was not looked at whole is no failure.
    file.write_text("")
    outcome = mutate.run(suite, ["pair"], wanted, dataclasses.replace(options, resume=True))
    assert {LAST, SWAPPED} <= set(texts(outcome.open)) and mutate.report(outcome) == 0

    # A new test is asked, too, and nothing else is measured again.
    reached = mutate.reached_by_tests(suite.package, options)
    measured = json.loads(reached.read_text())
    (options.tests / "test_last.py").write_text(ANOTHER.format(package=str(suite.package)))
    assert mutate.reached_by_tests(suite.package, options) == reached
    last = [m for m in wanted if m.text == LAST]
    assert [by.partition("::")[2] for by in mutate.unit_tests(suite, last, options).values()] == ["test_last"]
    assert {nodeid: json.loads(reached.read_text())[nodeid] for nodeid in measured} == measured

    # An explanation of what is found, one of what is not found by what it says, and one of nothing.
    file.write_text(
        f"[post]\n'{first}' = 'the scenario finds it'\n'{LAST}' = 'scenario pair/post'\n'drop: gone(mem)' = 'it was there'\n"
    )
    explained = mutate.explanations(options.explained, suite.package, ["pair"])
    outcome = mutate.Outcome(
        outcome.by | {m: "scenario pair/post" for m in outcome.by if m.text == first}, explained.reasons, explained.stale
    )
    assert (texts(outcome.needless), texts(outcome.wrong), outcome.stale) == ([first], [LAST], ["pair.post: drop: gone(mem)"])
    assert mutate.report(outcome) == 1


def explained():
    found = mutate.explanations(EXPLAINED, CORE, loader.modules(CORE))
    assert {file.stem for file in EXPLAINED.glob("*.toml")} <= set(loader.modules(CORE))
    return found


def test_every_explained_mutant_of_the_core_exists():
    found = explained()
    assert not found.stale, f"to be taken out of {EXPLAINED}: {found.stale}"


def test_every_module_was_looked_at_whole():
    assert explained().complete == set(mutate.modules_of(CORE))


def by_scenario():
    """What is explained by the scenario that alone finds it."""
    return [
        (m, reason.removeprefix("scenario ")) for m, reason in explained().reasons.items() if reason.startswith("scenario ")
    ]


@pytest.mark.parametrize(
    ("mutant", "name"), sampled(by_scenario(), 2), ids=lambda part: part if isinstance(part, str) else part.place
)
def test_the_scenario_finds_it(mutant, name):
    assert trial.found(SUITE.scenarios[name], mutant)


def found_by_tests():
    """Return what the list says: which unit test finds each of these mutants, for those that are still there."""
    known = {(m.place, m.text): m for m in mutate.all_of(CORE, loader.modules(CORE))}
    lines = [tuple(line.split("\t")) for line in (EXPLAINED / "found.txt").read_text().splitlines()]
    there = {known[place, text]: test for place, text, test in lines if (place, text) in known}
    assert set(lines) == {(m.place, m.text, test) for m, test in there.items()}
    return there


def test_unit_tests_find_a_sample(tmp_path):
    """A whole run with the tests that are known to find these mutants, and no others."""
    known = found_by_tests()
    tests = {test: {"passes": True, "file": ANY, "seconds": 0.1, "wall": 0.1, "reaches": set()} for test in known.values()}
    for mutant, test in known.items():
        tests[test]["reaches"].add(f"{mutant.module}:{statement_of(CORE, mutant)}")
    told = {test: each | {"reaches": sorted(each["reaches"])} for test, each in tests.items()}
    options = mutate.Options(ROOT / "tests" / "mm", EXPLAINED, tmp_path)
    mutate.reached_by_tests(CORE, options).write_text(json.dumps(told))
    by = mutate.unit_tests(SUITE, list(known), options)
    assert [f"{m.place}: {m.text}" for m in known if not by[m]] == []


def test_a_child_that_sleeps_is_hung():
    """Long before one that works, whose processor time is limited."""
    told, status = unit_tests._in_child(lambda out: (print(1, file=out, flush=True), signal.pause()), lambda told: 0.2)
    assert (told, status) == ("1\n", -signal.SIGKILL)
