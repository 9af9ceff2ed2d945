"""Every recipe is in the index, and every block of its code is run by a test."""

import re
from pathlib import Path

from documents import ROOT, page, rows
from running import code

FOLDER = ROOT / "docs" / "recipes"
PAGES = sorted(path.stem for path in FOLDER.glob("*.md") if path.stem != "index")
TESTS = "".join(path.read_text() for path in Path(__file__).parent.glob("test_recipes_*.py"))


def test_the_index_has_all_pages():
    found = [re.match(r"\[.*\]\((.*)\.md\)", row[0])[1] for row in rows(page("recipes/index.md"), "recipe", "run with")]
    assert sorted(found) == PAGES


def test_every_block_is_run():
    for name in PAGES:
        assert code(name), name
        for number in range(len(code(name))):
            assert f'code("{name}")[{number}]' in TESTS, f"block {number} of {name}.md"
