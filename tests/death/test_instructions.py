"""A process is killed at every instruction of every operation, and what it leaves is settled.

``make test`` takes some of the instructions, those that write to the segment; with FOLIOCACHE_STRESS_SECONDS set, as by ``make soak``,
it is all of them.
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

from scenes import OPERATIONS, QUICK_REAPS, REAPS

SOAK = "FOLIOCACHE_STRESS_SECONDS" in os.environ
KILLING = pathlib.Path(__file__).with_name("killing.py")
CHOSEN = OPERATIONS + (REAPS if SOAK else QUICK_REAPS)


@pytest.mark.parametrize("scene", [scene.__name__ for scene in CHOSEN])
def test_killed_at_any_instruction(scene, pool_name, record_property):
    most = [] if SOAK else ["60" if scene.startswith("reap") else "500"]
    done = subprocess.run([sys.executable, KILLING, pool_name, scene, *most], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    print(done.stdout)
    record_property("killed", done.stdout)
