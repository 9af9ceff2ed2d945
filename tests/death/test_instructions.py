"""A process is killed at every instruction of every operation, and what it leaves is settled.

``make test`` takes some of the instructions, those that write to the segment; with FOLIOCACHE_STRESS_SECONDS set, as by ``make
soak``, it is all of them.
"""

import os
import pathlib
import platform
import shutil
import subprocess
import sys

import pytest

if platform.machine() != "x86_64" or not shutil.which("cc"):
    pytest.skip("single-stepping is written for x86-64, and needs a C compiler", allow_module_level=True)

from scenes import BESIDE, IN_HUGE_PAGES, OPERATIONS, QUICK_REAPS, REAPS
from test_huge import mounted

SOAK = "FOLIOCACHE_STRESS_SECONDS" in os.environ
PATIENCE = 6 * 3600 if SOAK else 600  # seconds for a scene; killing.py has its own for one death
KILLING = pathlib.Path(__file__).with_name("killing.py")
PATH = os.pathsep.join(filter(None, [str(KILLING.parent.parent), os.environ.get("PYTHONPATH")]))  # of the tests' modules

pytestmark = pytest.mark.timeout(PATIENCE + 60)


def names(scenes):
    return [scene.__name__ for scene in scenes]


@pytest.fixture
def huge_pages(tmp_path, monkeypatch):
    """A file system with huge pages, for a pool that takes memory 2 MiB at a time."""
    mounted(tmp_path, "size=64m,huge=within_size")
    monkeypatch.setenv("FOLIOCACHE_DIR", str(tmp_path))
    monkeypatch.setenv("FOLIOCACHE_TEST_HUGE", "1")
    yield
    subprocess.run(["umount", "-l", tmp_path], check=True)


def run(name, scene, most):
    """At most so many points of a scene, or all of them."""
    command = [sys.executable, KILLING, name, scene, str(most or 0)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env={**os.environ, "PYTHONPATH": PATH})
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    print(done.stdout)


@pytest.mark.parametrize("scene", names(OPERATIONS))
def test_killed_at_any_instruction_of_an_operation(scene, pool_name):
    run(pool_name, scene, None if SOAK else 200)


@pytest.mark.parametrize("scene", names(REAPS if SOAK else QUICK_REAPS))
def test_killed_at_any_instruction_of_reaping_another(scene, pool_name):
    run(pool_name, scene, None if SOAK else 40)


@pytest.mark.parametrize("scene", names(BESIDE))
def test_stopped_at_any_instruction_while_another_is_reaped(scene, pool_name):
    """One by one they take long: while one stands in an operation, the reaper's patience ends again and again."""
    run(pool_name, scene, 200 if SOAK else 8)


@pytest.mark.parametrize("scene", names(IN_HUGE_PAGES))
def test_killed_or_stopped_at_any_instruction_in_huge_pages(scene, huge_pages):
    run("pool", scene, None if SOAK else 20)
