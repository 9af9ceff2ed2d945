"""The drawing of the core in docs/design.md is what its modules import."""

import ast
import re

from documents import MM, page

BOX = page("design.md").partition("mm, compiled")[2].partition("+----")[0]
LINES = [re.match(r"   \|  (\w+(?:  \w+)*) ", line)[1].split() for line in BOX.splitlines() if line.startswith("   |  ")]


def imported(module):
    tree = ast.parse((MM / f"{module}.py").read_text())
    return {alias.name for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.level for alias in node.names}


def test_every_module_is_drawn():
    assert sorted(name for line in LINES for name in line) == sorted(
        path.stem for path in MM.glob("*.py") if path.stem != "__init__"
    )


def test_imports_go_to_lower_lines():
    place = {name: number for number, line in enumerate(LINES) for name in line}
    for module, at in place.items():
        assert all(place[other] > at for other in imported(module)), module
