"""How much memory a set of processes holds together, shared pages counted once.

RSS counts a shared page in every process that maps it, which would make any shared cache look as large as private ones. PSS
divides it by the number of mappers, but leaves out pages that no process maps at the moment. So: the processes' PSS without its
shared memory part, plus all that the pool's file has allocated, mapped or not. That is never less than the plain sum of PSS.
"""

from __future__ import annotations

import os
from collections.abc import Iterable


def private_and_shared(pid: int) -> tuple[int, int]:
    """A process's PSS in bytes: (all but shared memory, shared memory); zeros if there is no such process."""
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            fields = dict(line.split(":", 1) for line in file if line.startswith(("Pss:", "Pss_Shmem:")))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return 0, 0
    total, shared = (int(fields.get(name, "0 kB").split()[0]) * 1024 for name in ("Pss", "Pss_Shmem"))
    return total - shared, shared


def allocated(path: str | None) -> int:
    """The bytes of memory that a file on shared memory takes; 0 for None."""
    return os.stat(path).st_blocks * 512 if path else 0


def together(pids: Iterable[int], pool: str | None) -> int:
    """The bytes of memory that processes and the file of their pool take."""
    each = [private_and_shared(pid) for pid in pids]
    private, shared = (sum(column) for column in zip(*each, strict=True)) if each else (0, 0)
    return private + max(shared, allocated(pool))
