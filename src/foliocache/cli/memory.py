"""How much memory a set of processes takes together, shared pages counted once.

RSS counts a shared page in every process that maps it, so a shared cache would look as large as private ones. PSS divides a
page by the number of processes that map it, but leaves out pages that no process maps at the moment. So this adds the
processes' PSS without its shared memory part, and all that the pool's file has allocated, mapped or not. That is never less
than the plain sum of PSS.
"""

from __future__ import annotations

import os
from collections.abc import Iterable


def private_and_shared(pid: int) -> tuple[int, int]:
    """Return a process's PSS in bytes: (all but shared memory, shared memory). Zeros if there is no such process."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            fields = dict(line.split(":", 1) for line in file if line.startswith(("Pss:", "Pss_Shmem:")))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0, 0
    total, shared = (int(fields.get(name, "0 kB").split()[0]) * 1024 for name in ("Pss", "Pss_Shmem"))
    return total - shared, shared


def allocated(path: str | None) -> int:
    """Return the bytes of memory that a file in shared memory takes; 0 for None."""
    return os.stat(path).st_blocks * 512 if path else 0


def together(pids: Iterable[int], pool: str | None) -> int:
    """Return the bytes of memory that processes and the file of their pool take together."""
    each = [private_and_shared(pid) for pid in pids]
    private, shared = (sum(column) for column in zip(*each, strict=True)) if each else (0, 0)
    return private + max(shared, allocated(pool))
