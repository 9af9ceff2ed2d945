"""What docs/checker.md teaches does what it says."""

import re
from pathlib import Path

import pytest

from foliocache.check import scenario
from foliocache.check.program import litmus

TEXT = (Path(__file__).parents[2] / "docs" / "checker.md").read_text()
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
    scenario.load_all()
    exec(BLOCKS[2], {})
    mine = scenario.SCENARIOS.pop("my/two-puts")
    verdicts = {(model, bug): scenario.run(mine, model, bug).verdict for model in scenario.ALL for bug in (None, "relaxed")}
    assert {key for key, verdict in verdicts.items() if verdict == "fails"} == {("rc11", "relaxed")}


def test_every_command_names_what_there_is():
    scenarios = scenario.load_all()
    for name, bug in re.findall(r"foliocache verify (\S+) --mutate (\S+)", TEXT):
        assert bug in scenarios[name].mutations()
