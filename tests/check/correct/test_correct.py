"""The shipped source: every scenario holds, exactly, and so does every variant that claims to be right.

Slow scenarios are explored by ``foliocache verify`` and sampled here. A part of the variants is tried, and sc and tso for a
part of the scenarios: they allow a part of the executions that rc11 allows (test_brute.py). Where a document gives a number of
executions, it is right.
"""

import documented
import pytest
from sampled import WHOLE, sampled

from foliocache.check import scenario
from foliocache.check.scenarios import load_all

SCENARIOS = load_all()
DOCUMENTED = documented.executions()
LONG = {"names/ask-two", "threads/grace"}  # more than a tenth of the time of all that are not called slow
SLOW = [name for name, s in SCENARIOS.items() if s.slow or name in LONG]
QUICK = [name for name in SCENARIOS if WHOLE or name not in SLOW]
CASES = [(name, None, "rc11") for name in QUICK]
CASES += sampled([(name, variant, "rc11") for name in QUICK for variant in SCENARIOS[name].variants], 2)
CASES += sampled([(name, None, model) for name in QUICK for model in ("sc", "tso")], 12)


def explorations(item):
    p = item.callspec.params
    return [(p["name"], p["model"], p["mutation"])]


@pytest.mark.parametrize(("name", "mutation", "model"), CASES, ids=lambda part: str(part))
def test_holds(explored, name, mutation, model):
    row = explored(name, model, mutation)
    assert row.verdict == "holds", row.found.message
    assert row.exact
    assert row.executions == row.graphs > 0
    if mutation is None and (name, model) in DOCUMENTED:
        assert row.executions == DOCUMENTED[name, model], "the documents say another number"


def test_the_documents_state_numbers():
    """For every scenario of death and of refused locks under each model, and for some others."""
    told = {name for name, s in SCENARIOS.items() if name.startswith(("death/", "refused/"))}
    assert {(name, model) for name in told for model in documented.MODELS} <= set(DOCUMENTED)
    living = {name for name, _ in DOCUMENTED} - told
    assert len(living) >= 14 and living <= set(SCENARIOS)


@pytest.mark.parametrize("name", SLOW)
def test_slow_ones_are_sampled(name):
    """Fifty executions, by priorities that change: no proof, but most mistakes show in some."""
    row = scenario.run(SCENARIOS[name], samples=50)
    assert row.verdict == "sampled", row.found.message
    assert row.executions > 0
