"""The executions that docs/protocol.md counts are those that the checker visits."""

import re

import pytest
from documents import page

from foliocache.check import scenario

SCENARIOS = scenario.load_suite("foliocache.check.scenarios").scenarios
TEXT = page("protocol.md")
COUNT = re.compile(r"`(?:foliocache verify )?([a-z]+/[a-z-]+)`\s+\(([\d,]+)\s+executions?\b")
TOLD = {name: int(count.replace(",", "")) for name, count in COUNT.findall(TEXT)}


def test_every_count_is_looked_at():
    assert len(TOLD) == len(re.findall(r"executions?\b[^(]*?\)", TEXT)) > 10


@pytest.mark.parametrize("name", TOLD)
def test_a_count(name):
    found = scenario.run(SCENARIOS[name])
    assert (found.verdict, found.exact, found.executions) == ("holds", True, TOLD[name])


@pytest.mark.parametrize("model", ["sc", "tso"])
def test_the_one_of_the_thread_is_the_same_in_every_model(model):
    assert scenario.run(SCENARIOS["put/aba"], model).executions == TOLD["put/aba"]


def test_the_schemes_are_run_under_as_many_scenarios_as_it_says():
    count = int(re.search(r"verdict over (\d+) scenarios", TEXT)[1])
    for scheme in ("mainline", "v4", "cmpxchg-loop"):
        assert sum(scheme in one.mutations() for one in SCENARIOS.values()) == count
