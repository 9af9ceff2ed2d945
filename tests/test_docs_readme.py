"""README.md is short, its example runs as printed, and its figures are those of docs/performance.md."""

import os
import re
import subprocess
import sys
import tempfile

from documents import ROOT, page, rows

TEXT = (ROOT / "README.md").read_text()
EXAMPLE = re.findall(r"^```python\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE)[0]
WORDS = 500


def test_there_are_few_words_before_the_tables():
    table = re.search(r"^\|.*\|\n\|[-| ]+\|$", TEXT, re.MULTILINE)
    assert len(TEXT[: table.start()].split()) <= WORDS


def test_the_example_is_ten_lines_of_code():
    assert sum(bool(line.strip()) and not line.startswith("import ") for line in EXAMPLE.splitlines()) <= 10


def test_the_example_does_what_it_says(tmp_path):
    script = tmp_path / "example.py"
    script.write_text(EXAMPLE)
    with tempfile.TemporaryDirectory(prefix="foliocache-test-", dir="/dev/shm") as folder:
        environment = dict(os.environ) | {"FOLIOCACHE_DIR": folder}
        done = subprocess.run(
            [sys.executable, "-W", "error", str(script)],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    said = re.search(r"It prints `([^`]+)`", TEXT)[1]
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{said}\n", "")


def test_the_demo_is_that_of_the_performance_page():
    demo = rows(TEXT, "run", "read")
    assert len(demo) == 3 and demo == rows(page("performance.md"), "run", "read")


def test_the_hits_are_those_of_the_performance_page():
    measured = {who: ratio for who, *_, ratio in rows(page("performance.md"), "who", "ns")}
    told = rows(TEXT, "compared with", "its time / ours")
    assert len(told) == 8
    for who, ratio in told:
        digits = len(ratio.partition(".")[2])
        name = next(name for name in measured if re.match(rf"{re.escape(name)}($|[ ,]+\(|, in )", who))
        assert ratio == f"{float(measured[name].replace(',', '')):.{digits}f}", who
