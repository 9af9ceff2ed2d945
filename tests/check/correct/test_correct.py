"""The shipped source: every scenario holds under every model, exactly, and so does every variant that claims to be right.

Slow scenarios are left to ``foliocache verify``. Where a document says how many executions there are, that number is right.
"""

import documented
import pytest

from foliocache.check import scenario
from foliocache.check.scenarios import load_all

SCENARIOS = load_all()
DOCUMENTED = documented.executions()
CASES = [(name, mutation) for name, s in SCENARIOS.items() if not s.slow for mutation in (None, *s.variants)]


@pytest.mark.parametrize("model", scenario.ALL)
@pytest.mark.parametrize(("name", "mutation"), CASES, ids=lambda part: str(part))
def test_holds(name, mutation, model):
    row = scenario.run(SCENARIOS[name], model, mutation)
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
