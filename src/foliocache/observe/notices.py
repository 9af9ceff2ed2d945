"""What an operator should know, as warnings of the logger ``foliocache``: of each kind, one a minute in each process.

If the program has not configured logging, nothing is printed: a library does not write to a program's stderr.
"""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging

PAUSE = 60.0  # seconds between two warnings of a kind

_next: dict[tuple[str, str], float] = {}  # (kind, pool) -> when it may be said again
_unsaid: dict[tuple[str, str], int] = {}


def logger() -> logging.Logger:
    """Return the logger. It is imported here, since that takes a while and few programs come to this."""
    import logging

    found = logging.getLogger("foliocache")
    if not found.handlers:
        found.addHandler(logging.NullHandler())
    return found


def warn(kind: str, pool: str, text: str, *args: object) -> None:
    """Warn, unless the same kind of thing was said of this pool less than PAUSE seconds ago. Never raises.

    The next warning says how many were left out.
    """
    now, key = time.monotonic(), (kind, pool)
    if now < _next.get(key, 0.0):
        _unsaid[key] = _unsaid.get(key, 0) + 1
        return
    _next[key] = now + PAUSE  # before the handlers run: they may read from the pool
    left_out = _unsaid.pop(key, 0)
    if sys.is_finalizing():
        return
    try:
        more = f" ({left_out} more since the last such message)" if left_out else ""
        logger().warning("pool %r: " + text + more, pool, *args)
    except Exception:  # a reader must not fail because of its log
        return


def private_read(pool: str) -> None:
    """Bytes were read for one reader alone."""
    warn(
        "private",
        pool,
        "bytes are read privately and not cached: every page is in use, or another process takes too long to fill one; "
        "see `foliocache top`",
    )


def single_reads(pool: str, error: BaseException) -> None:
    """A source's ``read_ranges`` has raised."""
    text = "ranges are read one by one, since reading several at a time has failed: %s: %s"
    warn("single", pool, text, type(error).__name__, error)


def dead_clients(pool: str, dead: int, waiting: int) -> None:
    """Processes have died while they used the pool, and what they left has been settled."""
    settled = f", but for {waiting} that must wait for leases of others" if waiting else ""
    warn("dead", pool, "%d process%s died while using it; what they left has been settled%s", dead, "es" * (dead > 1), settled)


def pressure(pool: str, given: int) -> None:
    """Memory was given back because others need it."""
    warn("pressure", pool, "other programs need memory; the pool gives some back (%d KiB now)", given >> 10)


os.register_at_fork(after_in_child=_unsaid.clear)
