"""How much memory this process may use, and the place where pools live has: for the sizes that a new pool gets by default, and
for ``headroom``, which looks at how much of that is left. And how many processors it may use: for its engines."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Iterator
from typing import Literal, TypeAlias

from ..mm import layout
from . import mapped

_open = open  # finalizers may open a pool when the interpreter has cleared its builtins
UNLIMITED = 1 << 62  # cgroup v1 says "no limit" with a number near 2^63
_THP = "/sys/kernel/mm/transparent_hugepage"
LIMITS = ("memory.max", "memory.high", "memory.limit_in_bytes")


def memory() -> int:
    """Return the bytes of memory that there are for this process: of the machine, or of the tightest of its cgroups."""
    limits = (_number(os.path.join(place, name)) for place in groups() for name in LIMITS)
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


def processors(proc: str = "/proc") -> float:
    """Return how many processors this process may use: those that it may run on, or fewer if a cgroup of it has a quota."""
    most = float(len(os.sched_getaffinity(0)))
    for place in groups(proc, "cpu"):
        quota, period = [*_text(os.path.join(place, "cpu.max")).split(), "", ""][:2]
        if not period:  # version 1, or none
            quota, period = (_text(os.path.join(place, f"cpu.cfs_{name}_us")).strip() for name in ("quota", "period"))
        with contextlib.suppress(ValueError, ZeroDivisionError):
            share = int(quota) / int(period)
            most = min(most, share) if share > 0 else most
    return most


def _number(path: str) -> int:
    """Return the number in a file; 0 if there is none ("max"), or no such file."""
    with contextlib.suppress(ValueError):
        return int(_text(path))
    return 0


def _text(path: str) -> str:
    """Return a small file's content; nothing where it cannot be read."""
    with contextlib.suppress(OSError), _open(path, "rb", buffering=0) as file:
        return file.read(1 << 16).decode(errors="surrogateescape")
    return ""


Huge: TypeAlias = Literal["", "given", "advised", "collapsed"]


def huge_pages(folder: str) -> Huge:
    """Return whether there are huge pages of 2 MiB in the file system of a folder: it gives them at once, or where a mapping
    asks for them; or the kernel makes them of small ones."""
    try:
        found = os.stat(folder).st_dev
    except OSError:
        return ""
    names = ("shmem_enabled", "hpage_pmd_size", "enabled")
    return _huge_pages(f"{os.major(found)}:{os.minor(found)}", *(_text(f"{_THP}/{name}") for name in names))


def _huge_pages(device: str, shmem: str, size: str, enabled: str) -> Huge:
    """Return what ``huge_pages`` does, for a device, and the kernel's settings. ``never`` in the last is respected, though the
    kernel would make huge pages."""
    if size.strip() != str(1 << layout.HUGE_SHIFT) or "[deny]" in shmem:
        return ""
    with contextlib.suppress(OSError), _open("/proc/self/mountinfo", errors="surrogateescape") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            if before.split()[2] == device and after.startswith("tmpfs "):
                options = after.split()[2].split(",")
                if "[force]" in shmem or "huge=within_size" in options or "huge=always" in options:
                    return "given"
                if "huge=advise" in options:
                    return "advised"
                return "collapsed" if enabled and "[never]" not in enabled and mapped.can_collapse() else ""
    return ""


def groups(proc: str = "/proc", controller: str = "memory") -> tuple[str, ...]:
    """Return the folder of each cgroup by which a controller limits this process, from its own up to the highest it can see."""
    return _folders(proc, controller, _text(f"{proc}/self/cgroup"))


@functools.lru_cache(maxsize=8)
def _folders(proc: str, controller: str, memberships: str) -> tuple[str, ...]:
    """Return the folders for the content of /proc/self/cgroup. Where cgroups are mounted seldom changes, and takes 0.1 ms to
    read."""
    mounts = dict(_mounts(proc, controller))
    found: list[str] = []
    for line in memberships.splitlines():
        number, controllers, path = line.split(":", 2)
        kind = controller if controller in controllers.split(",") else "" if number == "0" else None
        if kind in mounts:
            root, top = mounts[kind]
            found += _upwards(top, path.removeprefix(root.rstrip("/")))
    return tuple(found)


def _upwards(top: str, path: str) -> Iterator[str]:
    """Yield the folder of a cgroup below ``top``, then those above it."""
    parts = [part for part in path.split("/") if part not in ("", "..")]
    for depth in range(len(parts), -1, -1):
        yield os.path.join(top, *parts[:depth])


def _mounts(proc: str, controller: str) -> Iterator[tuple[str | None, tuple[str, str]]]:
    """Yield (the controller for version 1, "" for version 2, (the cgroup that is mounted, where))."""
    with contextlib.suppress(OSError), _open(f"{proc}/self/mountinfo", errors="surrogateescape") as file:
        for line in file:
            before, _, after = line.partition(" - ")
            fields, kind = before.split(), after.split()
            if kind[0] == "cgroup2" or (kind[0] == "cgroup" and controller in kind[2].split(",")):
                yield "" if kind[0] == "cgroup2" else controller, (_plain(fields[3]), _plain(fields[4]))


def _plain(path: str) -> str:
    """Return a path of mountinfo without its octal escapes."""
    return re.sub(r"\\(\d{3})", lambda found: chr(int(found[1], 8)), path)
