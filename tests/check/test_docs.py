"""The examples of docs/checker.md do what it says."""

import re
import sys
from pathlib import Path

import pytest
from test_litmus import TESTS as LITMUS

from foliocache.check import replay, scenario, trace
from foliocache.check.program import litmus
from foliocache.check.scenarios import SUITE, load_all

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "checker.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_the_litmus_tests(capsys):
    names = {}
    exec(BLOCKS[0], names)
    printed = [eval(line) for line in capsys.readouterr().out.splitlines()]
    assert printed == [{(0, 1), (1, 0), (1, 1)}, {(0, 0), (0, 1), (1, 0), (1, 1)}]
    exec(BLOCKS[1], names)
    assert eval(capsys.readouterr().out) == {(None, 42)}
    exec(BLOCKS[1].replace("store_release", "store_relaxed").split("\nprint")[0], names)
    with pytest.raises(AssertionError, match=r"data race on .0.: this plain read is not ordered with the plain write by T1"):
        litmus(names["sender"], names["receiver"])
    assert litmus(names["sender"], names["receiver"], model="tso") == {(None, 42)}


def test_the_scenario():
    exec(BLOCKS[2], {})
    mine = SUITE.scenarios.pop("my/two-puts")
    verdicts = {(model, bug): scenario.run(mine, model, bug).verdict for model in scenario.ALL for bug in (None, "relaxed")}
    assert {key for key, verdict in verdicts.items() if verdict == "fails"} == {("rc11", "relaxed")}


def test_the_scenario_of_death():
    exec(BLOCKS[3], {})
    row = scenario.run(SUITE.scenarios.pop("my/get-remove"))
    assert (row.verdict, row.exact) == ("holds", True)


def test_the_ring_buffer(tmp_path, monkeypatch, capsys):
    (tmp_path / "ring").mkdir()
    files = ("ring/layout.py", "ring/spsc.py", "suite.py")
    for name, block in zip(files, BLOCKS[4:7], strict=True):
        (tmp_path / name).write_text(block)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "suite", raising=False)
    exec(BLOCKS[7], {})
    verdicts = dict(line.split(" ", 1) for line in capsys.readouterr().out.splitlines()[:6])
    weak = dict.fromkeys(("tail-unreleased", "head-unacquired", "tail-unacquired", "head-unreleased"), "holds holds fails")
    assert verdicts == {"None": "holds holds holds", **weak, "one-too-many": "fails fails fails"}
    which = sys.modules.pop("suite").SUITE.scenarios["ring/spsc"]
    assert all(scenario.run(which, model).exact for model in scenario.ALL)
    assert {scenario.run(which, "rc11", bug).found.kind for bug in weak} == {"race"}


@pytest.mark.parametrize("part", ["death", "refused"])
def test_the_tables_of_reliability_say_what_the_scenarios_say(part):
    told = re.findall(rf"^\| `({part}/[a-z-]+)` \| (.*?) \|", (DOCS / "reliability.md").read_text(), re.MULTILINE)
    assert told == [(name, " ".join(s.doc.split())) for name, s in load_all().items() if name.startswith(f"{part}/")]


def without_lines(text):
    return re.sub(r"(\.py):\d+", r"\1", text)


def test_the_counterexample_is_the_one_that_is_printed():
    which = load_all()["freeze/gets"]
    row = scenario.run(which, "rc11", "reset-by-sub")
    program = which.program("reset-by-sub")
    graph, failure = replay.replay(program, "rc11", row.found.replay_string)
    (shown,) = re.findall(r"```text\n( +T1.*?)\n```", TEXT, re.DOTALL)
    assert without_lines(shown).split() == without_lines(trace.text(graph, program, failure)).split()


def test_the_number_of_litmus_tests():
    assert re.findall(r"(\d+) classic litmus tests", TEXT) == [str(len(LITMUS))]


def test_the_number_of_explorations_of_death():
    rows = re.findall(
        r"\| (\d+) explorations.*`foliocache verify --model sc tso rc11` \(`death/...`\)", (DOCS / "reliability.md").read_text()
    )
    explorations = [(s, m) for name, s in load_all().items() if name.startswith("death/") for m in (None, *s.mutations())]
    assert rows == [str(len(explorations) * len(scenario.ALL))]


def test_every_living_scenario_is_named_beside_a_death():
    text = (DOCS / "reliability.md").read_text()
    rows = re.findall(r"^\| (`(?!death/)[a-z]+/[a-z-]+`.*?) \| (.*) \|$", text, re.MULTILINE)
    living = [name for row in rows for name in re.findall(r"`([a-z]+/[a-z-]+)`", row[0])]
    known = list(load_all())
    assert sorted(living) == sorted(name for name in known if not name.startswith("death/"))
    deaths = [f"death/{name}" for row in rows for name in re.findall(r"`([a-z-]+)`", row[1])]
    assert set(deaths) <= set(known)


@pytest.mark.parametrize("page", ["checker.md", "protocol.md"])
def test_every_command_names_what_there_is(page):
    scenarios = load_all()
    text = (DOCS / page).read_text()
    commands = re.findall(r"([a-z]+/[a-z-]+) --mutate ([a-z0-9-]+)", text)
    assert len(commands) > 2
    for name, bug in commands:
        assert bug in scenarios[name].mutations()
    for names in re.findall(r"foliocache verify ((?:[a-z]+/[a-z-]* ?)+)", text):
        for name in names.split():
            assert any(known.startswith(name) for known in scenarios)
