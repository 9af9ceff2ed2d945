"""The logger ``foliocache``: what an operator should know, and not more often than once a minute."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys

import pytest

import foliocache
from foliocache.observe import notices

LIMIT = 60


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """A time that stands still, and nothing said yet."""
    now = [1000.0]
    monkeypatch.setattr(notices.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(notices, "_next", {})
    monkeypatch.setattr(notices, "_unsaid", {})
    return now


def said(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "foliocache"]


def test_a_kind_is_said_once_a_minute_for_each_pool(clock, caplog):
    for _ in range(5):
        notices.warn("private", "one", "text %d", 7)
    notices.warn("private", "two", "text")
    notices.warn("dead", "one", "other")
    assert said(caplog) == ["pool 'one': text 7", "pool 'two': text", "pool 'one': other"]
    clock[0] += notices.PAUSE
    notices.warn("private", "one", "text %d", 8)
    assert said(caplog)[-1] == "pool 'one': text 8 (4 more since the last such message)"


def test_a_handler_that_fails_or_reads_does_no_harm(monkeypatch):
    class Bad(logging.Handler):
        def emit(self, record):
            notices.warn("private", "one", "again")
            raise OSError("no")

    handler = Bad()
    logging.getLogger("foliocache").addHandler(handler)
    try:
        notices.warn("private", "one", "text")
    finally:
        logging.getLogger("foliocache").removeHandler(handler)
    assert notices._unsaid == {("private", "one"): 1}


def test_private_reads_are_warned_of(pool_name, caplog):
    with foliocache.open(pool_name, size="1MiB") as pool:
        mapping = pool.mapping("k", 4 << 20, "1", lambda offset, length: bytes(length), readahead=0)
        pins = [mapping.lease(offset) for offset in range(0, 4 << 20, mapping.unit_size)]
        for pin in pins:
            pin.release()
        assert pool.stat().counters.bypasses > 1
    (one,) = said(caplog)
    assert one.startswith(f"pool {pool_name!r}: bytes are read privately")


def test_a_dead_client_is_warned_of(pool, caplog):
    code = (
        "import sys, foliocache; p = foliocache.attach(sys.argv[1]); l = p.mapping('k', 9, '1', lambda o, n: bytes(n)).lease(0)"
    )
    code += "; print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", code, pool.name]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        process.stdout.readline()
        os.kill(process.pid, signal.SIGKILL)
    pool._attachment.reap()
    (one,) = said(caplog)
    assert one == f"pool {pool.name!r}: 1 process died while using it; what they left has been settled"


def test_pressure_is_warned_of(pool, caplog):
    from foliocache.pool import pressure

    pool.mapping("k", 500_000, "1", lambda offset, length: bytes(length)).read_bytes(0, 500_000)
    given = pressure.give_back(pool._attachment, 1 << 20)
    assert given > 0 and said(caplog) == [
        f"pool {pool.name!r}: other programs need memory; the pool gives some back ({given >> 10} KiB now)"
    ]


def test_nothing_is_printed_without_a_configuration(pool_name):
    code = "import sys; from foliocache.observe import notices; notices.private_read('one')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT, check=True)
    assert done.stderr == ""
    code = f"import logging; logging.basicConfig(format='%(name)s %(levelname)s %(message)s'); {code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=LIMIT, check=True)
    assert done.stderr.startswith("foliocache WARNING pool 'one': bytes are read privately")
