"""The CPythons of this machine, for what is done with each of them: wheels, and the tests of a package as a user gets it."""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

OLDEST = 11  # the minor version of requires-python
SAY = "import sys, sysconfig as c; print('{0}.{1}'.format(*sys.version_info) + 't' * bool(c.get_config_var('Py_GIL_DISABLED')))"


def this():
    """Return the version of the interpreter that runs this, "3.11", or "3.13t" for one without a GIL, and its path."""
    free = "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
    return {f"{sys.version_info.major}.{sys.version_info.minor}{free}": sys.executable}


def all_of_them():
    """Return the path of an interpreter for each version from the oldest on: this one, those on the PATH, and pyenv's."""
    found = this()
    names = [f"python3.{minor}{free}" for minor in range(OLDEST, 20) for free in ("", "t")]
    candidates = [path for path in map(shutil.which, names) if path and "/shims/" not in path]
    candidates += sorted(Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")).glob("versions/3.*/bin/python"))
    for candidate in candidates:
        said = subprocess.run([candidate, "-c", SAY], capture_output=True, text=True, timeout=60, check=False).stdout
        match = re.match(r"(3\.(\d+)t?)$", said)
        if match and int(match[2]) >= OLDEST:
            found.setdefault(match[1], str(candidate))
    return found
