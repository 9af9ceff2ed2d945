"""The package as a user gets it: install from the source tree into a fresh environment, use it. ``make soak`` does it with
every CPython of this machine, from 3.11 on."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tools import pythons

ROOT = Path(__file__).parent.parent
INSTALL = 600  # seconds: it compiles the core
SMOKE = """
import sys, foliocache, fsspec
pool = foliocache.open(sys.argv[1], size="4MiB")
mapping = pool.mapping("k", 100_000, "v", lambda offset, length: bytes(length))
assert mapping.read(0, 100_000) == bytes(100_000)
with open(__file__, "rb") as mine, fsspec.open("folio::file://" + __file__, folio={"name": sys.argv[1]}) as through:
    assert mine.read() == through.read()
assert pool.audit() == []
foliocache.remove(sys.argv[1])
print("fine", sys.version_info[:2])
"""


PYTHONS = pythons.all_of_them() if "FOLIOCACHE_STRESS_SECONDS" in os.environ else pythons.this()


def quick_compiler(folder):
    """Return a compiler that does not optimize, which takes longer than all else: ``make build`` has compiled this code so."""
    compiler = folder / "cc"
    compiler.write_text('#!/bin/sh\nexec cc "$@" -O0 -g0 -U_FORTIFY_SOURCE\n')
    compiler.chmod(0o755)
    return str(compiler)


@pytest.mark.timeout(2 * INSTALL)
@pytest.mark.parametrize("version", sorted(PYTHONS))
def test_installs_and_runs(version, tmp_path, pool_name):
    environment = tmp_path / "venv"
    source = tmp_path / "source"
    built = "lib.*", "temp.*", "bdist.*", "*.so", "*.egg-info"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".git", ".venv*", "__pycache__", *built))
    # The C code is the same for every Python, and takes as long to write as to compile. Cython takes it as it is unless it is
    # older than Cython's own files, which pip is about to install.
    for written in (source / "build").rglob("*.c"):
        os.utime(written, (time.time() + 3600,) * 2)
    subprocess.run([PYTHONS[version], "-m", "venv", environment], check=True, timeout=INSTALL)
    building = os.environ | ({} if "FOLIOCACHE_STRESS_SECONDS" in os.environ else {"CC": quick_compiler(tmp_path)})
    subprocess.run([environment / "bin/pip", "install", "-q", source], check=True, timeout=INSTALL, env=building)
    script = tmp_path / "smoke.py"
    script.write_text(SMOKE)
    said = subprocess.run(
        [environment / "bin/python", script, pool_name], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith("fine")
