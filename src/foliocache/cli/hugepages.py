"""How much of a pool is in huge pages, as the processes that use it have it mapped.

The kernel counts them for each mapping alone: a process that has just attached has nothing mapped, and to touch pages for the
count would be to take memory where there is none.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from foliocache.pool.slot import pid_namespace

if TYPE_CHECKING:
    from foliocache.observe.records import Stat

_MAPPING = re.compile(r"[0-9a-f]+-[0-9a-f]+ \S+ [0-9a-f]+ ([0-9a-f]+):([0-9a-f]+) (\d+)")
_HUGE = re.compile(r"(?:Shmem|File)PmdMapped:\s+(\d+) kB")


def huge_bytes(found: Stat, proc: str = "/proc") -> int | None:
    """Return the bytes of a pool's file that one of its processes has mapped as huge pages: of those that may be looked at,
    the one that has most. None if none of them may.

    Processes map what they use, so it is the least that there is.
    """
    try:
        file = os.stat(found.path)
    except OSError:
        return None
    here, most = pid_namespace(), None
    for client in found.clients:
        if client.state == "attached" and client.pid_namespace == here:
            with contextlib.suppress(OSError):  # it has ended, or is another user's
                mapped = max(_mapped(f"{proc}/{client.pid}/smaps", file), default=0)
                most = mapped if most is None else max(most, mapped)
    return most


def _mapped(path: str, wanted: os.stat_result) -> Iterator[int]:
    """Yield the bytes in huge pages of each mapping of a file. Raises OSError."""
    name = os.major(wanted.st_dev), os.minor(wanted.st_dev), wanted.st_ino
    is_wanted = False
    with open(path, errors="replace") as lines:
        for line in lines:
            if head := _MAPPING.match(line):
                is_wanted = (int(head[1], 16), int(head[2], 16), int(head[3])) == name
            elif is_wanted and (huge := _HUGE.match(line)):
                yield int(huge[1]) << 10
