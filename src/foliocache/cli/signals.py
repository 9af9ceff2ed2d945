"""Clean-up that Ctrl-C starts and a second Ctrl-C cannot stop.

A demo that leaves a pool of shared memory behind takes memory from the machine until it reboots. In the usual ``ExitStack`` a
signal does harm at two moments: between acquiring a thing and registering it, and during the clean-up. Here SIGINT and SIGTERM
are blocked in both (not ignored: they stay pending). Processes that are started meanwhile inherit the mask. That is right for
SIGINT, because the terminal sends it to the whole process group, and the parent stops the others. A signal can still do harm in
the few instructions of ``with`` itself before the mask is set.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import TracebackType
from typing import TypeVar

SIGNALS = (signal.SIGINT, signal.SIGTERM)
T = TypeVar("T")


@contextmanager
def blocked() -> Iterator[None]:
    """Keep SIGINT and SIGTERM pending until this is left."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class CleanupStack(ExitStack):
    """An ExitStack that enters contexts and cleans up with SIGINT and SIGTERM blocked."""

    def enter_context(self, cm: AbstractContextManager[T]) -> T:
        """Enter a context manager. Return what its ``__enter__`` returns."""
        with blocked():
            return super().enter_context(cm)

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None, /
    ) -> bool | None:
        with blocked():
            return super().__exit__(kind, value, tb)
