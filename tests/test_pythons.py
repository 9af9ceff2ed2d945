"""The package as a user gets it: install from the source tree into a fresh environment, use it. ``make soak`` does it with
every CPython of this machine, from 3.11 on."""

import os
import re
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


SOAK = "FOLIOCACHE_STRESS_SECONDS" in os.environ
PYTHONS = pythons.all_of_them() if SOAK else pythons.this()


def installed(version, folder, extras="", *packages):
    """Install the source tree, and packages, into a fresh environment; return its Python. The tree's copy is ``source``."""
    environment = folder / "venv"
    source = folder / "source"
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(".git", ".venv*", "__pycache__", "bdist.*", "*.egg-info"))
    # The C code is the same for every Python, and takes as long to write as to compile. Cython takes it as it is unless it is
    # older than Cython's own files, which pip is about to install. What ``make build`` has compiled is taken as it is, too,
    # except in a soak.
    hour = 3600
    for written in (source / "build").rglob("*"):
        if written.suffix == ".c":
            os.utime(written, (time.time() + hour,) * 2)
        elif written.suffix in (".o", ".so"):
            written.unlink() if SOAK else os.utime(written, (time.time() + 2 * hour,) * 2)
    for built_in_place in (source / "src").rglob("*.so"):
        built_in_place.unlink()
    subprocess.run([PYTHONS[version], "-m", "venv", environment], check=True, timeout=INSTALL)
    subprocess.run([environment / "bin/pip", "install", "-q", f"{source}{extras}", *packages], check=True, timeout=INSTALL)
    return environment / "bin/python"


@pytest.mark.timeout(2 * INSTALL)
@pytest.mark.parametrize("version", sorted(PYTHONS))
def test_installs_and_runs(version, tmp_path, pool_name):
    python = installed(version, tmp_path)
    script = tmp_path / "smoke.py"
    script.write_text(SMOKE)
    said = subprocess.run([python, script, pool_name], capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert said.returncode == 0, said.stderr
    assert said.stdout.startswith("fine")


@pytest.mark.skipif(not SOAK, reason="for a soak")
@pytest.mark.timeout(3 * INSTALL)
@pytest.mark.parametrize("version", sorted(version for version in PYTHONS.keys() - {"3.11"} if version[-1] != "t"))
def test_the_newest_zarr(version, tmp_path):
    """From Python 3.12 on, Zarr has newer versions: the fused pipeline, synchronous stores."""
    needed = "pytest>=9", "pytest-asyncio>=1.2", "pytest-timeout>=2.3", "hypothesis>=6.100", "xarray>=2025.6.1"
    python = installed(version, tmp_path, "[http,zarr]", *needed)
    command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/zarr_store"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=INSTALL, cwd=tmp_path / "source")
    assert said.returncode == 0, said.stdout[-10_000:] + said.stderr
    assert re.search(r"\d+ passed", said.stdout)
