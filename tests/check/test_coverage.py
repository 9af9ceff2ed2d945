"""Every atomic operation of the protocol is needed as it is, or has a recorded reason."""

from foliocache.check import coverage, scenario

SUITE = scenario.load_suite("foliocache.check.scenarios")
REASONS = SUITE.claims.reasons


def test_nothing_is_unexplained():
    survey = coverage.survey(SUITE)
    assert {c.module for c, _ in survey} == set(SUITE.claims.modules)
    unexplained = [c for c, found in survey if not found and (c.module, c.function, coverage.how(c)) not in REASONS]
    assert not unexplained
    needless = {(c.module, c.function, coverage.how(c)) for c, found in survey if not found}
    assert needless == set(REASONS)


def test_what_looking_again_is_needed_for():
    assert all(verdict == row[3] for row, verdict in coverage.rechecks(SUITE))
