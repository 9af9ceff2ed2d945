"""docs/dependencies.md has a row for each package that the project needs, and for no other."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from documents import ROOT, page, rows, section

import foliocache

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


EXTRAS = PROJECT["project"]["optional-dependencies"]
SECTIONS = {
    "To run": PROJECT["project"]["dependencies"],
    "To build": PROJECT["build-system"]["requires"],
    "To test": EXTRAS["test"],
    "To run the recipes": EXTRAS["recipes"],
    "To benchmark": EXTRAS["bench"],
    "To measure coverage": EXTRAS["coverage"],
    "To lint": EXTRAS["lint"],
    "To make the site": EXTRAS["site"],
    "To make wheels": EXTRAS["wheels"],
}
FOR_USERS = EXTRAS.keys() - {"test", "recipes", "bench", "coverage", "lint", "site", "wheels"}


def packages(requirements):
    names = {re.match(r"[\w-]+", one)[0] for one in requirements}
    return names - {"foliocache"}


@pytest.mark.parametrize("title", SECTIONS)
def test_every_package_has_its_row(title):
    told = [row[0] for row in rows(section(page("dependencies.md"), title), "package", "why")]
    assert sorted(told) == sorted(packages(SECTIONS[title]))


def test_every_package_of_an_extra_has_its_row():
    told = [(row[0].strip("`"), row[1]) for row in rows(page("dependencies.md"), "extra", "package", "why")]
    assert sorted(told) == sorted((extra, package) for extra in FOR_USERS for package in packages(EXTRAS[extra]))


def test_all_is_all_extras_for_users_but_torch():
    assert EXTRAS["all"] == [f"foliocache[{','.join(sorted(FOR_USERS - {'all', 'torch'}))}]"]


def test_the_library_itself_imports_none_of_them():
    code = "import sys, foliocache; print(*{name.partition('.')[0] for name in sys.modules} - set(sys.stdlib_module_names))"
    environment = {**os.environ, "PYTHONPATH": str(Path(foliocache.__file__).parent.parent)}
    command = [sys.executable, "-S", "-c", code]  # without site-packages, and what they import by themselves
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=environment)
    assert {name for name in done.stdout.split() if not name.startswith("__")} <= {
        "foliocache",
        "_cython_3_3_1",
        "cython_runtime",
    }
