"""Clean-up that Ctrl-C starts and a second Ctrl-C cannot stop.

A demo that leaves a pool of shared memory behind has taken memory from the machine until it reboots. Two windows are open in
the usual ``ExitStack``: a signal between acquiring a thing and registering it, and a signal during the clean-up. Here SIGINT
and SIGTERM are blocked (not ignored: they stay pending) in both. Processes started under the shield inherit the mask, which
is what we want for SIGINT: the terminal sends it to the whole group, and the parent is the one who stops the others. What
stays open are the few instructions of ``with`` itself before the mask is set.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextmanager
def shielded() -> Iterator[None]:
    """SIGINT and SIGTERM wait until this is left."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class CleanupStack(ExitStack):
    """An ExitStack whose acquisitions and clean-up run shielded."""

    def enter_context(self, cm):  # type: ignore[no-untyped-def,override]
        with shielded():
            return super().enter_context(cm)

    def __exit__(self, *exc_details):  # type: ignore[no-untyped-def,override]
        with shielded():
            return super().__exit__(*exc_details)
