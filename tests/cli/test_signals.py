"""Signals that are held back: whichever thread the kernel gives them to."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest

from foliocache.cli.signals import blocked


@pytest.fixture
def arrived() -> Iterator[int]:
    """A pipe that the C handler of a signal writes to, while there is a thread that blocks none."""
    leave = threading.Event()
    other = threading.Thread(target=leave.wait)
    other.start()
    reads, writes = os.pipe2(os.O_NONBLOCK)
    before = signal.set_wakeup_fd(writes)
    os.set_blocking(reads, True)
    try:
        yield reads
    finally:
        signal.set_wakeup_fd(before)
        leave.set()
        other.join()
        os.close(reads)
        os.close(writes)


def send(number: int, arrived: int) -> None:
    """Send this process a signal, and wait until Python knows of it."""
    os.kill(os.getpid(), number)
    assert os.read(arrived, 1) == bytes([number])


def test_another_thread_gets_it(arrived):
    mask, handler = signal.pthread_sigmask(signal.SIG_BLOCK, ()), signal.getsignal(signal.SIGINT)
    done = []
    with pytest.raises(KeyboardInterrupt), blocked():
        with blocked():
            send(signal.SIGINT, arrived)
            done.append("inner")
        done.append("outer")
    assert done == ["inner", "outer"]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
    assert signal.getsignal(signal.SIGINT) == handler


def test_what_has_no_handler_of_python_stays_so(arrived):
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with blocked():
            os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
