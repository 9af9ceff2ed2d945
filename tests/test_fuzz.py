"""Damaged pools of every kind: see ``fuzz``. FOLIOCACHE_FUZZ_MUTANTS says how many; `make soak` tries 20,000."""

import os
import subprocess
import sys

import pytest

MUTANTS = int(os.environ.get("FOLIOCACHE_FUZZ_MUTANTS", "120"))
PARTS = 2


@pytest.mark.timeout(300 + MUTANTS * 2)
def test_no_damage_gives_wrong_bytes_crashes_hangs_or_outlives_a_repair(request):
    """The same mutants in every run. A failure is printed with the command that reproduces it."""
    share = -(-MUTANTS // PARTS)
    parts = [
        subprocess.Popen(
            [sys.executable, "fuzz.py", str(part * share), str(share)],
            cwd=request.path.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for part in range(PARTS)
    ]  # fmt: skip
    try:
        said = [part.communicate(timeout=240 + MUTANTS * 2)[0] for part in parts]
    finally:
        for part in parts:
            part.kill()
            part.wait()
    assert [part.returncode for part in parts] == [0] * PARTS, "\n".join(said)
    assert all(f"{share} mutants" in text for text in said)
