"""Each test that docs/reliability.md names beside a fault is there."""

import re
from pathlib import Path

from documents import page

TESTS = Path(__file__).parent
SECTION = page("reliability.md").partition("## Faults that were found")[2]
DEFINED = {
    name for file in TESTS.rglob("test_*.py") for name in re.findall(r"^\s*def (test_\w+)", file.read_text(), re.MULTILINE)
}


def test_what_is_named_is_there():
    named = set(re.findall(r"`(test_\w+)`", SECTION))
    assert len(named) > 150
    assert named - DEFINED == set()


def test_each_fault_has_a_test():
    faults = [line for line in SECTION.splitlines() if line.startswith("| ") and not line.startswith("| fault")]
    assert [line for line in faults if "`test_" not in line.rpartition(" | ")[2]] == []
