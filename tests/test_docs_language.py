"""The documents are in plain technical English: a process, a client, a reader is "it"."""

import re

import pytest
from documents import PAGES, ROOT

PRONOUNS = re.compile(r"\b(he|his|him|himself)\b", re.IGNORECASE)


@pytest.mark.parametrize("name", [str(path.relative_to(ROOT)) for path in PAGES])
def test_a_process_is_it(name):
    """But for the rows of scenarios, which are the checker's own words."""
    lines = [line for line in (ROOT / name).read_text().splitlines() if not line.startswith("| `death/")]
    assert [line for line in lines if PRONOUNS.search(line)] == []
