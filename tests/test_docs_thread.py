"""docs/thread.md: the counterexample is what the checker prints, and each command has the result that is told."""

import re

import pytest
from documents import page

from foliocache.check import replay, scenario, trace
from foliocache.check.scenarios import load_all

TEXT = page("thread.md")
SCENARIOS = load_all()
COMMANDS = re.findall(r"foliocache verify ([a-z]+/[a-z-]+)(?: --mutate ([a-z0-9-]+))?(?=`| )", TEXT)


def test_the_counterexample_is_what_verify_prints():
    which = SCENARIOS["death/race"]
    row = scenario.run(which, "rc11", "word-believed")
    program = which.program("word-believed")
    told = trace.text(*replay.replay(program, "rc11", row.found.replay_string)[:1], program, row.found)
    words = [line for line in told.splitlines() if re.search(r"\b(ref|type) \[|  dies|client 1  |^final", line)]
    printed = [re.sub(r"\s+mm/\w+\.py:\d+\s*$", "", line).rstrip() for line in words]
    (shown,) = re.findall(r"```text\n(.*?)```", TEXT, re.DOTALL)
    assert [line.split() for line in shown.splitlines()] == [line.split() for line in printed]


@pytest.mark.parametrize(("name", "bug"), COMMANDS)
def test_every_command_has_a_scenario_and_a_bug(name, bug):
    assert not bug or bug in SCENARIOS[name].mutations(), f"{name} has no {bug}"


def test_the_commands_are_all_found():
    assert len(COMMANDS) == TEXT.count("foliocache verify")


@pytest.mark.parametrize("bug", re.findall(r"`(?:--mutate )?([a-z]+-[a-z]+)`", TEXT.partition("The simpler guesses")[2]))
def test_every_bug_of_the_crash_form_is_one(bug):
    assert bug in SCENARIOS["death/race"].bugs
