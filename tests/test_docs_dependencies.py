"""docs/dependencies.md has a row for each package that the project needs, and for no other."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from documents import ROOT, page, rows

import foliocache

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def packages(requirements):
    names = {re.match(r"[\w-]+", one)[0] for one in requirements}
    return names - {"foliocache"}


def test_every_package_has_its_row():
    text = page("dependencies.md")
    extras = PROJECT["project"]["optional-dependencies"]
    needed = packages(
        [
            *PROJECT["project"]["dependencies"],
            *PROJECT["build-system"]["requires"],
            *(one for all in extras.values() for one in all),
        ]
    )
    told = {row[0] for row in rows(text, "package", "why")} | {row[1] for row in rows(text, "extra", "package", "why")}
    assert told == needed


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
