"""The explorer: determinism, several cores, bounds, time budgets; and replay of what it finds."""

import io
import json
import re
import subprocess
import sys

import pytest

from foliocache.check import facade_model, facade_threads, html, loader, replay, scenario
from foliocache.check.mutation import Edit, Mismatch, Replace
from foliocache.check.program import Program, explore
from foliocache.check.scenarios import CORE, fixtures, load_all
from foliocache.cli import verify

SCENARIOS = load_all()


def test_runs_are_deterministic():
    first, second = (scenario.run(SCENARIOS["put/aba"], "rc11", "type-before-freeze") for _ in range(2))
    assert first.found.replay_string == second.found.replay_string
    assert (first.executions, first.operations) == (second.executions, second.operations)


def test_two_processes_see_what_one_sees():
    which = SCENARIOS["lookup/two-getters"]
    alone, together = (explore(which.program(), jobs=jobs) for jobs in (1, 2))
    assert together.keys == alone.keys
    assert together.executions == alone.executions == len(alone.keys)


def test_two_processes_find_the_bug():
    result = explore(SCENARIOS["lock/three"].program("no-waiters-bit"), jobs=2)
    assert result.failure.kind == "lost wake-up"


@pytest.mark.parametrize(("bound", "verdict"), [(1, "holds"), (3, "fails")])
def test_a_preemption_bound_hides_the_aba(bound, verdict):
    row = scenario.run(SCENARIOS["put/aba"], "sc", "type-before-freeze", bound=bound)
    assert row.verdict == verdict
    assert not row.exact


def test_a_budget_is_not_a_proof():
    row = scenario.run(SCENARIOS["lookup/three-getters"], "rc11", budget=0.05)
    assert row.verdict == "holds"
    assert not row.exact


def test_a_replay_ends_in_the_same_failure():
    which = SCENARIOS["freeze/gets"]
    row = scenario.run(which, "rc11", "reset-by-sub")
    _, failure = replay.replay(which.program("reset-by-sub"), "rc11", row.found.replay_string)
    assert (failure.kind, failure.message) == (row.found.kind, row.found.message)


def test_the_page_stands_alone():
    which = SCENARIOS["put/aba"]
    row = scenario.run(which, "sc", "type-before-freeze")
    program = which.program("type-before-freeze")
    graph, failure = replay.replay(program, "sc", row.found.replay_string)
    page = html.page("title", "intro", graph, program, failure, row.found.replay_string)
    assert "page_ref.put" in page and "destructor" in page
    assert not re.search(r"(src|href)=|https?:|@import|url\(", page)


def test_a_mutation_that_does_not_fit_is_an_error():
    for mutation in (
        Edit("page_ref", "put", "fetch_sub_of_another_time", ""),
        Edit("page_ref", "init", "mem", "m"),
        Edit("page_ref", "nothing", "a", "b"),
        Replace("page_ref", "nothing", "def nothing(): pass"),
    ):
        with pytest.raises(Mismatch):
            loader.load(CORE, facade_threads, mutations=[mutation])


def test_smaller_constants_carry_over():
    core = loader.load(CORE, facade_threads, {"NODE_SHIFT": 2})
    assert core.layout.NODE_SIZE == core.layout.NODE_SLOTS + 16
    with pytest.raises(ValueError, match="NO_SUCH"):
        loader.load(CORE, facade_threads, {"NO_SUCH": 1}).layout  # noqa: B018


def test_copies_are_independent_and_uncompiled():
    one, two = loader.load(CORE, facade_threads), loader.load(CORE, facade_threads)
    assert one.page_ref is not two.page_ref
    assert one.page_ref.__file__.endswith("page_ref.py")
    one.detach()
    assert not [name for name in sys.modules if name.startswith(one.name)]


def test_the_command_line(tmp_path):
    page = tmp_path / "aba.html"
    command = [
        sys.executable,
        "-c",
        "import sys; from foliocache.cli.app import run; sys.exit(run(sys.argv[1:]))",
        "verify",
        "put/aba",
    ]
    told = subprocess.run(
        [*command, "--mutate", "type-before-freeze", "--html", str(page)], capture_output=True, text=True, timeout=120
    )
    assert told.returncode == 0, told.stderr
    assert "the destructor of type 1 runs on a folio of type 2" in told.stdout
    assert page.read_text().startswith("<!doctype html>")
    told = subprocess.run([*command, "--model", "sc", "--json"], capture_output=True, text=True, timeout=120)
    rows = json.loads(told.stdout)["results"]
    assert told.returncode == 0
    assert {row["verdict"] == row["expected"] for row in rows} == {True}
    assert all(row["exact"] and row["executions"] for row in rows if row["verdict"] == "holds")
    told = subprocess.run([*command, "--sample", "20", "--json"], capture_output=True, text=True, timeout=120)
    rows = json.loads(told.stdout)["results"]
    assert {row["verdict"] for row in rows} == {"fails", "sampled"} and not any(row["exact"] for row in rows)


def test_every_word_of_a_descriptor_has_a_name():
    layout = loader.load(CORE, facade_threads).layout
    words = {value for name, value in vars(layout).items() if name.startswith("F_")}
    assert set(fixtures.FIELDS) == words


def test_a_page_that_is_not_there_is_not_touched():
    def wild(mem):
        facade_model.load_relaxed(mem, facade_model.folio_at(mem, 2))

    assert explore(Program([wild], geometry={"npages": 2})).failure.message == "there is no page 2"


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_shown_in_a_terminal_alone(monkeypatch):
    tasks = [verify.Exploration("lock/two", model, None, None, None, None, "pct", 0) for model in scenario.ALL]
    for stream in (Terminal(), io.StringIO()):
        monkeypatch.setattr("sys.stderr", stream)
        rows = verify._run(tasks, 2)
        assert [row.model for row in rows] == list(scenario.ALL)
        told = stream.getvalue()
        if stream.isatty():
            assert "3 of 3 explorations, 0 surprises; last lock/two under " in told
            assert told.endswith(f"\r{verify.ERASE}")
        else:
            assert told == ""


def test_verify_explores_a_slow_scenario_under_one_model(monkeypatch):
    """The rest is for ``--model``, and for the tests with FOLIOCACHE_CHECK=whole."""
    chosen = {s.slow: name for name, s in SCENARIOS.items()}
    asked = []

    def noted(tasks, jobs):
        asked.append([(task.scenario, task.model, task.mutation) for task in tasks])
        return []

    monkeypatch.setattr(verify, "_run", noted)
    for slow in (True, False):
        name = chosen[slow]
        for models, told in ((("rc11",) if slow else scenario.ALL), ()), (scenario.ALL, scenario.ALL):
            verify.verify(name, model=told)
            assert [each for each in asked.pop() if each[0] == name and each[2] is None] == [(name, m, None) for m in models]
