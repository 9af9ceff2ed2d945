"""The CPythons of this machine, for what is done with each of them: wheels, and the tests of a package as a user gets it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

OLDEST = 11  # the minor version of requires-python


def this():
    """Return the minor version of the interpreter that runs this, and its path."""
    return {f"{sys.version_info.major}.{sys.version_info.minor}": sys.executable}


def all_of_them():
    """Return the path of an interpreter for each minor version from the oldest on: this one, those on the PATH, and pyenv's."""
    found = this()
    names = [f"python3.{minor}" for minor in range(OLDEST, 20)]
    candidates = [path for path in map(shutil.which, names) if path and "/shims/" not in path]
    candidates += sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob("versions/3.*/bin/python"))
    for candidate in candidates:
        said = subprocess.run([candidate, "--version"], capture_output=True, text=True, timeout=60, check=False).stdout
        match = re.match(r"Python (3\.(\d+))\.", said)
        if match and int(match[2]) >= OLDEST:
            found.setdefault(match[1], str(candidate))
    return found
