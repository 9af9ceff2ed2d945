"""Every bug is found under the models that it names, and its counterexample is the one in this directory.

The counterexample is that of the last of these models. The other models are tried for a part of the bugs; ``foliocache verify``
tries all.

``wrong/<bug>/<scenario>.txt`` holds the checker's output, without line numbers. To rewrite the files after a change of
the core, run this file with ``PIN=1`` in the environment, then read the differences: each counterexample must be plausible.
"""

import os
import re
from pathlib import Path

import pytest
from sampled import WHOLE, sampled

from foliocache.check import replay, scenario, trace
from foliocache.check.scenarios import load_all

SCENARIOS = load_all()
HERE = Path(__file__).parent
BUGS = [(name, bug) for name, s in SCENARIOS.items() for bug in s.bugs]
SLOW = {("lock/three", "no-waiters-bit")}
OTHERS = [
    (name, bug, model)
    for name, bug in BUGS
    for model in scenario.ALL
    if model != SCENARIOS[name].bugs[bug].fails[-1] and (WHOLE or not ((name, bug) in SLOW or SCENARIOS[name].slow))
]


def story(which, model, bug, replay_string):
    program = which.program(bug)
    graph, failure = replay.replay(program, model, replay_string)
    text = trace.text(graph, program, failure)
    return re.sub(r"\s+$", "", re.sub(r"(\.py):\d+", r"\1", text), flags=re.MULTILINE) + "\n"


def explorations(item):
    name, bug, model = (item.callspec.params.get(key) for key in ("name", "bug", "model"))
    return [(name, model or SCENARIOS[name].bugs[bug].fails[-1], bug)]


@pytest.mark.parametrize(("name", "bug"), BUGS, ids=lambda part: part)
def test_is_found_and_looks_like_this(explored, name, bug):
    which = SCENARIOS[name]
    model = which.bugs[bug].fails[-1]
    row = explored(name, model, bug)
    assert row.verdict == "fails"
    pinned = HERE / bug / f"{name.replace('/', '-')}.{model}.txt"
    told = story(which, model, bug, row.found.replay_string)
    assert row.found.message.split("\n")[0] in told  # the replay ends in the same failure
    if os.environ.get("PIN"):
        pinned.parent.mkdir(exist_ok=True)
        pinned.write_text(told)
    assert told == pinned.read_text()


@pytest.mark.parametrize(("name", "bug", "model"), sampled(OTHERS, 16), ids=lambda part: part)
def test_under_which_models(explored, name, bug, model):
    row = explored(name, model, bug)
    assert row.verdict == row.expected


def test_nothing_is_pinned_that_no_test_compares():
    known = {(bug, f"{name.replace('/', '-')}.{SCENARIOS[name].bugs[bug].fails[-1]}.txt") for name, bug in BUGS}
    assert {(file.parent.name, file.name) for file in HERE.glob("*/*.txt")} == known
