"""``reached.txt`` says for each function of the core which scenario calls it; "-" if unit tests alone do.

A few scenarios call all that is called; samples of these are looked at. With FOLIOCACHE_CHECK=whole all scenarios are explored.
With PIN=1 the file is written, from samples of all; what it says already and is still so stays.
"""

import os
from pathlib import Path

import pytest
from sampled import WHOLE

from foliocache.check import reach, scenario
from foliocache.check.scenarios import CORE

SUITE = scenario.load_suite("foliocache.check.scenarios")
FILE = Path(__file__).parent / "reached.txt"
REACHED = dict(line.split("\t") for line in FILE.read_text().splitlines())
FUNCTIONS = [
    f"{module}.{name}" for module in reach.modules(CORE) for name, each in reach.points(CORE, module).lines.items() if each
]
SAMPLES = 60
AGAIN = f"to write it again: PIN=1 .venv/bin/python -m pytest {Path(__file__).relative_to(Path(__file__).parents[2])}"


def calls(name, samples=SAMPLES):
    return reach.called(CORE, reach.explored(SUITE, name, samples=samples)[0])


def chosen():
    """Return a scenario for each function: the one that the list says, if it is right; else one of few."""
    by = {name: calls(name) for name in SUITE.scenarios}
    found = {function: name for function, name in REACHED.items() if function in by.get(name, ())}
    while left := {function for each in by.values() for function in each} - set(found):
        best = max(by, key=lambda name: len(by[name] & left))
        found |= dict.fromkeys(by[best] & left, best)
    return {function: found.get(function, "-") for function in FUNCTIONS}


@pytest.mark.skipif(not os.environ.get("PIN"), reason="writes the file: PIN=1")
@pytest.mark.timeout(3000)
def test_pin():
    FILE.write_text("".join(f"{function}\t{name}\n" for function, name in chosen().items()))


def test_every_function_is_in_the_list():
    assert sorted(REACHED) == sorted(FUNCTIONS), AGAIN


@pytest.mark.parametrize("name", sorted(set(REACHED.values()) & set(SUITE.scenarios)))
def test_the_scenario_calls_them(name):
    wanted = {function for function, by in REACHED.items() if by == name and function in FUNCTIONS}
    found = calls(name)
    if not wanted <= found:  # another change of the core gives other samples
        found |= calls(name, None)
    assert wanted <= found, AGAIN


@pytest.mark.skipif(not WHOLE, reason="minutes: FOLIOCACHE_CHECK=whole")
@pytest.mark.timeout(3000)
def test_the_list_is_true():
    reached = set().union(*(found for found, _ in reach.survey(SUITE, os.cpu_count() or 1).values()))
    assert reach.called(CORE, reached) == {function for function, by in REACHED.items() if by != "-"}, AGAIN
