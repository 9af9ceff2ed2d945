"""What runs is counted: statements and branches of the source on disk, and not those of a stand-in."""

import pytest

from foliocache.check import facade_threads, loader, reach, scenario
from foliocache.check.mutation import Edit, Replace
from foliocache.check.program import Program

TALLY = '''
import cython
if not cython.compiled:
    from . import atomics

def add(mem, n):
    """Add n, if it is not 0, and say so."""
    if n == 0:
        return False
    for _ in range(n):
        atomics.fetch_add_relaxed(mem, 0, 1)
    return True

def wait(mem):
    while True:
        if atomics.load_relaxed(mem, 0):
            break
        atomics.cpu_relax()

def never(mem):
    add(mem, 1)
'''


@pytest.fixture
def tally(tmp_path):
    (tmp_path / "tally.py").write_text(TALLY)
    return tmp_path


def at(text, branch=""):
    """The point of the line that begins so."""
    (line,) = [n for n, each in enumerate(TALLY.splitlines(), 1) if each.strip().startswith(text)]
    return f"tally:{line}{branch}"


def run(package, *mutations):
    """What a call of add(0) reaches."""
    reach.hits.clear()
    loader.load(package, facade_threads, None, (*mutations, *reach.probes(package))).tally.add(None, 0)
    return set(reach.hits)


def test_what_there_is_to_reach(tally):
    points = reach.points(tally, "tally")
    assert points.lines["never"] == [at("add(mem, 1)")]
    assert points.branches == {
        "add": [at("if n ==", ":1"), at("if n ==", ":0"), at("for _", ":1"), at("for _", ":0")],
        "wait": [at("if atomics", ":1"), at("if atomics", ":0")],  # a loop without end has no other way
        "never": [],
    }


def test_a_call_reaches_its_way(tally):
    assert run(tally) == {at("if n =="), at("if n ==", ":1"), at("return False")}


def test_a_stand_in_is_not_counted(tally):
    other = Edit("tally", "add", "return False", "return None")
    assert run(tally, other) == {at("if n =="), at("if n ==", ":1")}
    whole = Replace("tally", "add", "def add(mem, n):\n    return n\n")
    assert run(tally, whole) == set()


def test_a_scenario_reaches_what_its_threads_run(tally):
    suite = scenario.Suite(tally)

    @suite.scenario("tally/wait")
    def wait(core):
        return Program([lambda mem: core.tally.add(mem, 1), core.tally.wait])

    found, _ = reach.survey(suite, 1)["tally/wait"]
    there = reach.points(tally, "tally")
    every = set().union(*there.lines.values(), *there.branches.values())
    assert every - found == {at("return False"), at("if n ==", ":1"), at("add(mem, 1)")}
    assert reach.uncalled(tally, found) == {"tally": ["never"]}


def test_the_report(tally, capsys):
    suite = scenario.Suite(tally)
    suite.scenario("tally/one")(lambda core: Program([lambda mem: core.tally.add(mem, 0)]))
    assert reach.main(suite) == 0
    told = capsys.readouterr().out
    assert "called by no scenario: tally: wait, never" in told
    assert "    2 of    10   20.0%" in told
