"""The executions that docs/protocol.md counts are those that the checker visits."""

import re

import documented
import pytest
from documents import page

from foliocache.check import scenario

SCENARIOS = scenario.load_suite("foliocache.check.scenarios").scenarios
TEXT = page("protocol.md")
COUNT = re.compile(r"`(?:foliocache verify )?([a-z]+/[a-z-]+)`\s+\(([\d,]+)\s+executions?\b")
TOLD = {name: int(count.replace(",", "")) for name, count in COUNT.findall(TEXT)}


def test_every_count_is_looked_at():
    assert len(TOLD) == len(re.findall(r"executions?\b[^(]*?\)", TEXT)) > 10


def test_every_count_is_compared():
    """In tests/check/correct, which explores these scenarios anyway."""
    assert {(name, "rc11"): count for name, count in TOLD.items()}.items() <= documented.executions().items()
    assert not [name for name in TOLD if SCENARIOS[name].slow]


@pytest.mark.parametrize("model", ["sc", "tso"])
def test_the_one_of_the_thread_is_the_same_in_every_model(model):
    assert scenario.run(SCENARIOS["put/aba"], model).executions == TOLD["put/aba"]


def test_the_schemes_are_run_under_as_many_scenarios_as_it_says():
    count = int(re.search(r"verdict over (\d+) scenarios", TEXT)[1])
    for scheme in ("mainline", "v4", "cmpxchg-loop"):
        assert sum(scheme in one.mutations() for one in SCENARIOS.values()) == count
