"""The shipped source: every scenario holds under every model, exactly, and so does every variant that claims to be right.

Slow scenarios are left to ``foliocache verify``. Where a document says how many executions there are, that number is right.
"""

import documented
import pytest

from foliocache.check import scenario
from foliocache.check.scenarios import load_all

SCENARIOS = load_all()
DOCUMENTED = documented.executions()
# What holds under rc11 holds under the others, which allow a part of its executions (test_brute.py): of variants, that is
# enough.
CASES = [
    (name, mutation, model)
    for name, s in SCENARIOS.items()
    if not s.slow
    for mutation in (None, *s.variants)
    for model in scenario.ALL
    if mutation is None or model == "rc11"
]


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
