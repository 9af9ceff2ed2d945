"""The checker needs no compiled core, and nothing that is not in the standard library."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import foliocache

SCRIPT = """
import foliocache.check
from foliocache.check import facade_model as a, scenario
from foliocache.check.mutation import Edit
from foliocache.check.program import litmus
from foliocache.check.scenarios import load_all


def count(mem):
    return a.fetch_add_relaxed(mem, 0, 1)


print(sorted(litmus(count, count)))
row = scenario.run(load_all()["put/parallel"])
print(row.verdict, row.exact)
try:
    foliocache.open
except ImportError as error:
    print(error)
print(hasattr(foliocache, "no_such_name"))
"""


@pytest.fixture
def uncompiled(tmp_path):
    """A folder with a copy of the package, without what was built."""
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    shutil.copytree(Path(foliocache.__file__).parent, tmp_path / "foliocache", ignore=ignored)
    return tmp_path


def run(folder, script, *options):
    """Run a new interpreter that finds the package in that folder."""
    start = f"import sys; sys.path.insert(0, {str(folder)!r})\n"
    command = [sys.executable, "-I", *options, "-c", start + script]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)


def test_the_checker_explores_without_the_compiled_core(uncompiled):
    done = run(uncompiled, SCRIPT, "-S")
    counts, verdict, refusal, other = done.stdout.splitlines()
    assert (counts, verdict, other) == ("[(0, 1), (1, 0)]", "holds True", "False"), done.stderr
    assert refusal.startswith("foliocache's core cannot be imported: ")


def test_other_names_say_how_to_build_it(uncompiled):
    done = run(uncompiled, "from foliocache import Pool")
    assert done.returncode == 1
    assert "not compiled" in done.stderr and "pip install ." in done.stderr
