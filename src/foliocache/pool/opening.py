"""Opening pools and attaching to them: one `Pool` for each that this process has open."""

from __future__ import annotations

import functools
import weakref
from collections.abc import Sequence
from typing import SupportsIndex

from ..errors import FoliocacheError, PoolNotFoundError
from ..sizes import quoted
from . import geometry, headroom, numa
from . import segment as segments
from .creation import create_or_attach
from .geometry import Wanted, check_parameters, parameters, permissions
from .pool import Pool, Seconds, _seconds

# The open pools of this process, by device and inode of their files. There is no lock: each step is a single call of a dict, so
# a signal handler or a finalizer may open a pool while its thread is opening it, and a forked child inherits no locked lock.
_pools: dict[tuple[int, int], weakref.ref[Pool]] = {}


def open(
    name: str = "default",
    size: SupportsIndex | str | None = None,
    page_size: SupportsIndex | str | None = None,
    mode: SupportsIndex = 0o600,
    *,
    clients: SupportsIndex | None = None,
    max_size: SupportsIndex | str | None = None,
    exact: bool = False,
    any_owner: bool = False,
    fill_timeout: Seconds | None = None,
    min_free: SupportsIndex | str | None = None,
    pressure: bool | None = None,
    interleave: bool = False,
    huge: bool | None = None,
    tiers: str | Sequence[str] | None = None,
) -> Pool:
    """Attach to the pool called name, or create it if there is none.

    Parameters
    ----------
    name : str
        Letters, digits, ``_``, ``-``, ``.``; one pool per name.
    size : int or str, optional
        How much memory a new pool may take for its pages: bytes, a string such as ``"4GiB"``, or a share of the memory there
        is, such as ``"25%"``, which is the default. That is the smaller of the memory of this machine (or of this process's
        cgroup) and of the file system of the pools. The pool takes it as it is used. An existing pool keeps its size;
        `Pool.resize` changes it.
    page_size : int or str, optional
        Bytes of a page, a power of two from 4 KiB to 2 MiB. By default that of the existing pool, or 16 KiB for a new one.
    mode : int
        Permissions of a new pool's file; its owner must be allowed to read and write.
    clients : int, optional
        How many processes may be attached at once. By default that of the existing pool, or 256 for a new one.
    max_size : int or str, optional
        The largest size that `Pool.resize` can give a new pool. It costs address space. By default 4 times the size, or all
        memory there is if that is more.
    exact : bool
        Raise an error also if the existing pool has another ``size`` or ``max_size`` than those given.
    any_owner : bool
        Attach also to a pool of another user, who can change its bytes at any time.
    fill_timeout : float, optional
        Seconds to wait for another process that is reading a folio from the source. After that, this process reads it too, as
        a private copy that is not cached. 60 by default; ``float("inf")`` waits without a limit. It is per process; the last
        ``open`` wins. If the other process dies, one of those that wait reads the folio instead.
    min_free : int or str, optional
        How much memory the pool leaves free, of the machine and of each memory cgroup of this process: bytes, or a share of
        each limit. By default 5 %, and at least 64 MiB, or a quarter of the limit if that is less. Give the same in all
        processes; the last ``open`` wins. Where less is free, the pool goes on with the memory that it has.
    pressure : bool, optional
        True, the default: when others have taken of ``min_free``, this process gives memory of the pool back, free pages first
        and then those of objects not used for the longest time. One process of each cgroup does so at a time, in a thread that
        it starts when it first takes memory for the pool. It is per process; the last ``open`` wins.
    interleave : bool
        Take the pages that get memory from now on from all NUMA nodes in turn, whichever process asks for it. Otherwise a page
        is on the node of the process that needs it first.
    huge : bool, optional
        Whether a new pool takes memory, and gives it back, in huge pages of 2 MiB. By default it does from 64 MiB of ``size``
        on where the file system gives huge pages, and from 256 MiB on where the kernel makes them when asked (Linux 6.1).
        True: from 64 MiB on there, too. False: in pieces of 64 KiB. An existing pool stays as it is.
    tiers : sequence of str, or str, optional
        What is asked for missing bytes before the source, the nearest first, such as
        ``["disk:/nvme/foliocache?size=1TiB"]``; or one string with commas. By default those of the existing pool, or none. The
        pool keeps them for the processes that open it afterwards. A tier that does not work is left out, and tried again later.

    Returns
    -------
    Pool
        The same object each time, as long as this process has it open.

    Raises
    ------
    PoolMismatchError
        The pool has another page size, room for another number of processes, or other tiers than those given (``exact``: or
        other sizes).
    PoolFullError
        Shared memory has no room for the pool.
    PoolDamagedError
        The file is damaged, or is not a pool.
    PoolError
        The pool belongs to another user, has another layout version, or has no free client slot; or this process lacks
        descriptors, address space or permissions for it, or for mbind(2) (``interleave``).
    ValueError
        A parameter has an invalid value.
    """
    wanted = parameters(size, page_size, clients, max_size, huge)
    mode = permissions(mode)
    timeout = None if fill_timeout is None else _seconds(fill_timeout)
    floor = geometry.floor(min_free)
    if not isinstance(pressure, bool | None):
        raise ValueError(f"pressure must be True or False, not {quoted(pressure)}")
    pool = _known(name, any_owner, wanted, exact)
    if pool is None:
        pool = _new(create_or_attach(name, wanted, mode, any_owner, exact), any_owner)
    if timeout is not None:
        pool.fill_timeout = timeout
    if min_free is not None:
        headroom.set_floor(pool._memory, *floor)
    if pressure is not None:
        pool._watch(pressure)
    if interleave:
        numa.interleave(pool._attachment.segment)
    pool._settle_tiers(tiers)
    return pool


def attach(name: str = "default", *, any_owner: bool = False) -> Pool:
    """Attach to an existing pool, with the parameters that it has.

    Parameters
    ----------
    name : str
        The pool.
    any_owner : bool
        As in `open`.

    Returns
    -------
    Pool
        The same object each time, as long as this process has it open.

    Raises
    ------
    PoolNotFoundError
        There is no pool of that name.
    PoolError
        As in `open`.
    """
    pool = _known(name, any_owner, {}) or _new(segments.attach(name, any_owner), any_owner)
    pool._settle_tiers(None)
    return pool


def reopen(
    name: str,
    size: SupportsIndex | str | None,
    page_size: SupportsIndex | str | None,
    any_owner: bool,
    fill_timeout: Seconds | None,
    pressure: bool | None = None,
) -> Pool:
    """Open a pool that was pickled."""
    return open(name, size, page_size, any_owner=any_owner, fill_timeout=fill_timeout, pressure=pressure)


def _known(name: str, any_owner: bool, wanted: Wanted, exact: bool = False) -> Pool | None:
    """Return the pool called name if this process has it open, else None. Needs neither descriptors nor memory."""
    try:
        ref = _pools.get(segments.locate(name, any_owner))
    except PoolNotFoundError:
        return None
    pool = ref() if ref is not None else None
    if pool is None or pool.closed:
        return None
    check_parameters(name, pool._attachment.segment.geometry, pool.pool_bytes, wanted, exact)
    try:
        return _joined(pool)
    except FoliocacheError:
        if pool.closed:  # by another thread, since the check above
            return None
        raise


def _new(segment: segments.Segment, any_owner: bool) -> Pool:
    """Return a Pool for a segment that has just been mapped, or the Pool that another thread or a signal handler has made
    meanwhile.

    It is published before it becomes a client, so that concurrent openers become one client.
    """
    return _joined(_published(Pool(segment, any_owner), segment.inode))


def _published(pool: Pool, key: tuple[int, int]) -> Pool:
    mine = weakref.ref(pool, functools.partial(_forget, key))
    while True:
        ref = _pools.setdefault(key, mine)
        found = ref()
        if found is not None and not found.closed:
            return found
        _forget(key, ref)


def _forget(key: tuple[int, int], ref: weakref.ref[Pool]) -> None:
    if _pools.get(key) is ref:
        _pools.pop(key, None)


def _joined(pool: Pool) -> Pool:
    pool._attachment.join()
    return pool
