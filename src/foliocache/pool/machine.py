"""How much memory this process may use, and the place where pools live has: for the sizes that a new pool gets by default."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator

UNLIMITED = 1 << 62  # cgroup v1 says "no limit" with a number near 2^63

_open = io.open  # still there while modules are torn down, when the built-in one is not


def memory() -> int:
    """Return the bytes of memory that there are for this process: of the machine, or of the tightest of its cgroups."""
    limits = (_number(os.path.join(place, name)) for place, names in _groups() for name in names)
    return min([_physical(), *(limit for limit in limits if 0 < limit < UNLIMITED)])


def room(folder: str) -> int:
    """Return the bytes of the file system of a folder; ``memory`` if that has no limit of its own, or cannot be asked."""
    with contextlib.suppress(OSError):
        found = os.statvfs(folder)
        if found.f_blocks:
            return found.f_blocks * found.f_frsize
    return memory()


def _physical() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _number(path: str) -> int:
    """Return the number in a file; 0 if there is none ("max"), or no such file."""
    with contextlib.suppress(OSError, ValueError), _open(path) as file:
        return int(file.read())
    return 0


def _groups() -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the folder of each memory cgroup of this process, from its own up to the root, with the names of its limits."""
    mounts = dict(_mounts())
    with contextlib.suppress(OSError), _open("/proc/self/cgroup") as file:
        for line in file:
            number, controllers, path = line.rstrip("\n").split(":", 2)
            kind = "memory" if "memory" in controllers.split(",") else "" if number == "0" else None
            if kind is None or kind not in mounts:
                continue
            root, top = mounts[kind]
            names = ("memory.limit_in_bytes",) if kind else ("memory.max", "memory.high")
            for place in _upwards(top, path.removeprefix(root.rstrip("/"))):
                yield place, names


def _upwards(top: str, path: str) -> Iterator[str]:
    """Yield the folder of a cgroup below ``top``, then those above it."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for depth in range(len(parts), -1, -1):
        yield os.path.join(top, *parts[:depth])


def _mounts() -> Iterator[tuple[str, tuple[str, str]]]:
    """Yield ("memory" for version 1, "" for version 2, (the cgroup that is mounted, where))."""
    with contextlib.suppress(OSError), _open("/proc/self/mountinfo") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            fields, kind = before.split(), after.split()
            if kind[0] == "cgroup2" or (kind[0] == "cgroup" and "memory" in kind[2].split(",")):
                yield "" if kind[0] == "cgroup2" else "memory", (_plain(fields[3]), _plain(fields[4]))


def _plain(path: str) -> str:
    """Return a path of mountinfo without its octal escapes."""
    return re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), path)
