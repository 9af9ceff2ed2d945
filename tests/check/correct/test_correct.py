"""The shipped source: every scenario holds under every model, exactly, and so does every variant that claims to be right.

The slow ones are left to ``foliocache verify``.
"""

import pytest

from foliocache.check import scenario
from foliocache.check.scenarios import load_all

SCENARIOS = load_all()
CASES = [(name, mutation) for name, s in SCENARIOS.items() if not s.slow for mutation in (None, *s.variants)]


@pytest.mark.parametrize("model", scenario.ALL)
@pytest.mark.parametrize(("name", "mutation"), CASES, ids=lambda part: str(part))
def test_holds(name, mutation, model):
    row = scenario.run(SCENARIOS[name], model, mutation)
    assert row.verdict == "holds", row.found.message
    assert row.exact
    assert row.executions == row.graphs > 0
