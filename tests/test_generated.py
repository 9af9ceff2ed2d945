"""What tools/generate.py writes is committed, and is what it would write now."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def check():
    command = [sys.executable, str(ROOT / "tools" / "generate.py"), "--check"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_nothing_has_drifted():
    found = check()
    assert (found.returncode, found.stderr) == (0, "")


def test_drift_is_found(tmp_path):
    """In a copy in which one constant differs, and mm/inline has one file too many."""
    for folder in ("tools", "src/foliocache/mm"):
        (tmp_path / folder).parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-r", str(ROOT / folder), str(tmp_path / folder)], check=True, timeout=60)
    layout = tmp_path / "src/foliocache/mm/layout.py"
    layout.write_text(layout.read_text().replace("LINE = 64 ", "LINE = 128 "))
    (tmp_path / "src/foliocache/mm/inline/other.pxd").write_text("")
    command = [sys.executable, str(tmp_path / "tools" / "generate.py")]
    found = subprocess.run([*command, "--check"], capture_output=True, text=True, timeout=60)
    assert found.returncode == 1
    assert "layout.h is not up to date" in found.stderr
    assert "inline/other.pxd is not up to date" in found.stderr
    subprocess.run(command, check=True, timeout=60)
    assert subprocess.run([*command, "--check"], timeout=60).returncode == 0
