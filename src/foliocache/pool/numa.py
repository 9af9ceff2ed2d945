"""NUMA: a pool's pages from the memory of all nodes in turn.

The policy belongs to the file, and so holds for every process that asks for its memory, however long the one lives that has set
it. The kernel takes it from a mapping, and this one is unmapped again.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import platform
from typing import TYPE_CHECKING

from ..errors import PoolError

if TYPE_CHECKING:
    from .segment import Segment

MBIND = {"x86_64": 237, "aarch64": 235}  # number of the system call
MPOL_INTERLEAVE = 3
NODES = "/sys/devices/system/node/has_memory"


def interleave(segment: Segment) -> None:
    """Take the pages that get memory from now on from all nodes in turn. Raises PoolError."""
    status = _mbind(segment.fd, segment.geometry["size"], nodes())
    if status:
        raise PoolError(
            f"pool {segment.name!r} cannot be spread over NUMA nodes: {os.strerror(status)}. A container needs the right "
            "to call mbind(2) (Docker: --cap-add SYS_NICE); or leave interleave out"
        )


def nodes() -> list[int]:
    """Return the numbers of the nodes that have memory: [0] where the kernel does not say."""
    found: list[int] = []
    try:
        with open(NODES) as file:
            for part in filter(None, file.read().strip().split(",")):
                first, _, last = part.partition("-")
                found += range(int(first), int(last or first) + 1)
    except (OSError, ValueError):
        return [0]
    return found or [0]


def _mbind(fd: int, size: int, chosen: list[int]) -> int:
    """Set the policy of a file. Return 0, or an errno."""
    number = MBIND.get(platform.machine())
    if number is None:
        return errno.ENOSYS
    bits = max(chosen) + 1
    width = 8 * ctypes.sizeof(ctypes.c_ulong)
    mask = (ctypes.c_ulong * (-(-bits // width)))()
    for node in chosen:
        mask[node // width] |= 1 << node % width
    call = ctypes.CDLL(None, use_errno=True).syscall
    with mmap.mmap(fd, size) as mapped:
        first = ctypes.c_char.from_buffer(mapped)
        failed = call(
            ctypes.c_long(number), ctypes.byref(first), ctypes.c_ulong(size), ctypes.c_long(MPOL_INTERLEAVE), mask,
            ctypes.c_ulong(width * len(mask) + 1), ctypes.c_long(0),
        )  # fmt: skip
        status = ctypes.get_errno() if failed else 0
        del first
    return status
