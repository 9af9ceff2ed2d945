"""Explorations that tests share: each is done once in a run, on every core, in the order in which the tests ask.

With pytest-xdist, its workers are on every core already, and each of them knows only when a test begins that it is to run it:
then an exploration is done when it is asked for.
"""

import os

import pytest

from foliocache.check import parallel, scenario
from foliocache.check.scenarios import load_all


class Explored:
    """Rows of explorations, by (scenario, model, mutation), as workers deliver them."""

    def __init__(self, wanted, jobs):
        self.scenarios = load_all()
        self.rows = {}
        self.coming = parallel.each(self.explore, wanted, jobs) if jobs else None

    def explore(self, case):
        name, model, mutation = case
        try:
            return scenario.run(self.scenarios[name], model, mutation)
        except Exception as error:  # of this case alone
            return error

    def pull(self):
        case, row = next(self.coming)
        self.rows[case] = row

    def __call__(self, *case):
        if case not in self.rows and self.coming is None:
            self.rows[case] = self.explore(case)
        while case not in self.rows:
            self.pull()
        if isinstance(self.rows[case], Exception):
            raise self.rows[case]
        return self.rows[case]


@pytest.fixture(scope="session")
def explored(request):
    """A function of (scenario, model, mutation) that returns the row.

    ``explorations(item)`` of a module says what a test of it will ask for.
    """
    if hasattr(request.config, "workerinput"):
        yield Explored((), 0)
        return
    asking = [item for item in request.session.items if "explored" in getattr(item, "fixturenames", ())]
    wanted = dict.fromkeys(case for item in asking for case in item.module.explorations(item))
    found = Explored(wanted, os.cpu_count() or 1)
    found.pull()  # the workers start while the fixture is made: they outlive the test (see guard.py)
    yield found
    found.coming.close()
