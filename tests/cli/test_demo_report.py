"""The numbers in the table: memory that is counted once, widths that fit, and the verdict."""

from __future__ import annotations

import subprocess
import sys
import tempfile

import pytest
from cli_command import LIMIT

from foliocache.cli.demo import report
from foliocache.cli.memory import allocated, private_and_shared, together

MIB = 2**20
TOUCH = """
import mmap, sys
with open(sys.argv[1], "r+b") as file, mmap.mmap(file.fileno(), 0) as pages:
    sum(pages[at] for at in range(0, len(pages), 4096))
    print("touched", flush=True)
    sys.stdin.read()
"""


def a_run(name: str, **changes: object) -> dict[str, object]:
    """A run with numbers as wide as they may get."""
    plain = {"name": name, "sample": 1.0, "members": 41_672, "read_bytes": 999 * MIB, "origin_bytes": 888 * MIB}
    counts = {"requests": 123_456, "seconds": 123.4, "hits": 999, "misses": 1, "peak_pss_bytes": 777 * MIB, "wrong_bytes": 0}
    return plain | counts | {"idle_each_bytes": 30 * MIB} | changes


def a_report(**changes: object) -> dict[str, object]:
    """A report of three runs; the changes are the folio run's."""
    folio = a_run("folio", pool_bytes=150 * MIB, findings=[], **changes)
    runs = [a_run("uncached", sample=0.1), a_run("blockcache"), folio]
    return {"dataset_bytes": 111 * MIB, "workers": 4, "epochs": 2, "runs": runs}


def test_it_fits_an_80_column_terminal(monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    report.show(a_report(wrong_bytes=12_345))
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    for figure in ("uncached*", "8.00*", "123,456", "123.4s", "99.9%", "777 MiB", "12,345", "BYTES WERE WRONG"):
        assert figure in out


@pytest.mark.parametrize(
    ("changes", "code"),
    [({}, 0), ({"wrong_bytes": 1}, 1), ({"findings": [{"check": "pins", "where": "folio 3", "message": "one too many"}]}, 1)],
)
def test_the_exit_code_is_the_verdict(changes, code, capsys):
    made = a_report()
    made["runs"][2].update(changes)
    assert report.exit_code(made) == code
    report.show(made)
    assert ("one too many" in capsys.readouterr().out) == ("findings" in changes)


def test_shared_memory_is_counted_once():
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.write(bytes(64 * MIB))
        file.flush()
        command = [sys.executable, "-c", TOUCH, file.name]
        readers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(2)]
        assert [process.stdout.readline() for process in readers] == ["touched\n"] * 2
        pids = [process.pid for process in readers]
        private = sum(private_and_shared(pid)[0] for pid in pids)
        shared = sum(private_and_shared(pid)[1] for pid in pids)
        assert together(pids, file.name) == pytest.approx(private + 64 * MIB, abs=MIB)
        assert shared == pytest.approx(64 * MIB, abs=MIB)
        for process in readers:
            process.communicate(timeout=LIMIT)
        assert together(pids, file.name) == allocated(file.name) == 64 * MIB
    assert together(pids, None) == 0
