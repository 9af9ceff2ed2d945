"""Every atomic operation of the protocol is needed as it is, or has a recorded reason.

``needed.txt`` says for each change of an operation which scenario fails with it, and how; "-" if none does, which
``scenarios/needed.py`` explains. Of what is in the list, a part is explored, each change in that scenario alone; what is new is
explored in all. With FOLIOCACHE_CHECK=whole the whole list is, and with PIN=1 besides the file is written.
"""

import os
from pathlib import Path

import pytest
from sampled import WHOLE, sampled

from foliocache.check import coverage, scenario, trial

SUITE = scenario.load_suite("foliocache.check.scenarios")
REASONS = SUITE.claims.reasons
CHANGES = {
    f"{change.place}: {change.text}": change
    for module in SUITE.claims.modules
    for change in coverage.changes(SUITE.package, module)
}
FILE = Path(__file__).parent / "needed.txt"
NEEDED = dict(line.split("\t") for line in FILE.read_text().splitlines())


def place(text):
    change = CHANGES[text]
    return change.module, change.function, coverage.how(change)


def test_nothing_is_unexplained():
    new = [text for text in CHANGES if text not in NEEDED and place(text) not in REASONS]
    assert [text for text in new if coverage.caught(SUITE, CHANGES[text]) is None] == []
    assert {place(text) for text in CHANGES if NEEDED.get(text) == "-"} <= set(REASONS) <= set(map(place, CHANGES))


def found_soon():
    """Return what a scenario finds before its time is over."""
    return [text for text, found in NEEDED.items() if text in CHANGES and found != "-" and not found.endswith(": limit")]


@pytest.mark.parametrize("text", sampled(found_soon(), 6))
def test_is_found(text):
    name, kind = NEEDED[text].split(": ")
    assert trial.found(SUITE.scenarios[name], CHANGES[text]) == kind


@pytest.mark.skipif(not WHOLE, reason="a minute: FOLIOCACHE_CHECK=whole")
@pytest.mark.timeout(3000)
def test_the_list_is_true():
    found = {f"{change.place}: {change.text}": by and ": ".join(by) for change, by in coverage.survey(SUITE)}
    told = {text: by or "-" for text, by in found.items()}
    assert {place(text) for text, by in found.items() if not by} == set(REASONS)
    if os.environ.get("PIN"):
        FILE.write_text("".join(f"{text}\t{by}\n" for text, by in told.items()))
    else:
        assert told == NEEDED


def test_what_looking_again_is_needed_for():
    assert all(verdict == row[3] for row, verdict in coverage.rechecks(SUITE))
