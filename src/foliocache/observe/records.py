"""The results of ``Pool.stat``, ``audit``, ``repair`` and ``mappings``: named tuples.

Each has ``to_dict``, which returns the same in dicts, lists, strings and numbers. The commands print that with ``--json``.
They are no dataclasses: to import those, and to make so many, takes a quarter as long as to import foliocache.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple


def _dict(record: Any) -> dict[str, Any]:
    return {name: _plain(value) for name, value in zip(record._fields, record, strict=True)}


def _plain(value: Any) -> Any:
    if hasattr(value, "_fields"):
        return _dict(value)
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


class Finding(NamedTuple):
    """One thing in a pool that does not agree with the rest of it.

    Attributes
    ----------
    check : str
        The check that failed, one word: ``"count"``, ``"queue"``, ``"lock"``, ...
    where : str
        Where it is, such as ``"pfn 17"`` or ``"slot 3"``.
    message : str
        What is wrong there.
    """

    check: str
    where: str
    message: str

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a new dict for JSON, in their order. A record within is a dict, and a tuple a list."""
        return _dict(self)


class ObjectInfo(NamedTuple):
    """One cached object at one version.

    Attributes
    ----------
    key, version : str
        Its key and its version. Long texts are cut to what the pool keeps of them.
    size : int
        Its length in bytes.
    unit_size : int
        Bytes of a unit, the smallest folio of the object. The last unit may be shorter.
    units : int
        How many units the object has.
    cached_folios : int
        How many folios of it are in the pool. A folio has one unit or several.
    cached_bytes : int
        How many bytes of the object these folios hold.
    pins : int
        References to those folios beyond the cache's own: leases, windows, fills.
    """

    key: str
    version: str
    size: int
    unit_size: int
    units: int
    cached_folios: int
    cached_bytes: int
    pins: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a new dict for JSON, in their order. A record within is a dict, and a tuple a list."""
        return _dict(self)


class NameInfo(NamedTuple):
    """What the pool knows of a key.

    Attributes
    ----------
    key : str
        The key. A long one is cut to what the pool keeps of it.
    exists : bool or None
        True if there is such an object, False if there is none, None while the first question is under way; then the other
        fields are empty.
    size : int
        The object's length in bytes.
    version : str
        Its version.
    extra_bytes : int
        How many bytes the asker has added to the answer.
    age : float or None
        Seconds since the question was asked that this answers.
    """

    key: str
    exists: bool | None
    size: int
    version: str
    extra_bytes: int
    age: float | None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a new dict for JSON, in their order. A record within is a dict, and a tuple a list."""
        return _dict(self)


class ClientInfo(NamedTuple):
    """A process that has a client slot of the pool, or had one.

    Attributes
    ----------
    slot : int
        The number of the slot.
    pid : int
        The process's pid in its own pid namespace; 0 if that was not known (there was no /proc).
    pid_namespace : int
        The inode of that namespace; 0 if that was not known.
    attached : float
        When the process took the slot, in seconds since the epoch.
    state : {"attached", "dead", "clean"}
        ``"dead"``: the process died, and what it left is not settled completely, because no process has reaped it yet, or a
        living one still uses a folio that it was working on. ``"clean"``: the process has left the slot.
    pins : int
        How many folios the process has pinned.
    """

    slot: int
    pid: int
    pid_namespace: int
    attached: float
    state: Literal["attached", "dead", "clean"]
    pins: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a new dict for JSON, in their order. A record within is a dict, and a tuple a list."""
        return _dict(self)


class LockInfo(NamedTuple):
    """A lock that a process held when the pool was looked at.

    If a second look finds the same lock with the same slot, that process has stopped.

    Attributes
    ----------
    lock : str
        The lock's name.
    slot : int
        The client slot of its owner.
    pid : int or None
        The process in that slot; None if no process has ever had that slot, which happens in a damaged pool only.
    """

    lock: str
    slot: int
    pid: int | None

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a new dict for JSON, in their order. A record within is a dict, and a tuple a list."""
        return _dict(self)


class Counters(NamedTuple):
    """What all processes that have used a pool have counted together since it was created.

    Attributes
    ----------
    hits, misses : int
        Lookups that found the folio in the pool, and lookups after which it had to be read.
    fills, fill_bytes : int
        Folios that were read from a source and cached, and their bytes.
    evictions : int
        Folios that were evicted to make room.
    bypasses : int
        Folios that were read privately and not cached, because there was no room, or no lock in time.
    waits : int
        Waits for another process or thread that was filling a folio.
    readahead : int
        Folios that were read in the background before they were asked for.
    errors : int
        Fills that failed.
    stalls : int
        Locks that were refused, because their owner was stopped.
    given_back : int
        Bytes of memory that were given back to the kernel.
    given_back_pressure : int
        Those of them that were given back because others needed memory.
    """

    hits: int
    misses: int
    fills: int
    fill_bytes: int
    evictions: int
    bypasses: int
    waits: int
    readahead: int
    errors: int
    stalls: int
    given_back: int
    given_back_pressure: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a new dict for JSON, in their order. A record within is a dict, and a tuple a list."""
        return _dict(self)


class PagesByState(NamedTuple):
    """The pages of a pool; each is in one of these states.

    Attributes
    ----------
    free : int
        Pages in the allocator, with memory.
    hole : int
        Pages without memory that may still get some: they were not needed yet, or have been given back.
    file, node, inode, table, name : int
        Pages with the content of objects; with nodes of their indexes; with their records; with page tables of windows; with
        names, that is what keys mean.
    frozen : int
        Pages of folios that are being made or destroyed at this moment. If they stay so, an audit says what is wrong.
    """

    free: int
    hole: int
    file: int
    node: int
    inode: int
    table: int
    name: int
    frozen: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a new dict for JSON, in their order. A record within is a dict, and a tuple a list."""
        return _dict(self)


class FoliosByType(NamedTuple):
    """The folios of a pool by type.

    Attributes
    ----------
    file, node, inode, table, name : int
        As in `PagesByState`.
    """

    file: int
    node: int
    inode: int
    table: int
    name: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a new dict for JSON, in their order. A record within is a dict, and a tuple a list."""
        return _dict(self)


class Stat(NamedTuple):
    """What a pool holds, and which processes use it. It is read without a lock, so the parts may differ by a few operations.

    Attributes
    ----------
    name : str
        The pool's name.
    path : str
        The path of its file.
    pool_bytes : int
        The most bytes that the pages may take together: the pool's size.
    max_bytes : int
        The most that `Pool.resize` can make of that.
    page_size : int
        Bytes of a page.
    pages : int
        How many pages that is.
    metadata_bytes : int
        Bytes of the file besides the pages: tables and client slots.
    metadata_ratio : float
        The same as a share of `pool_bytes`.
    free_bytes, cached_bytes : int
        Bytes of the pages that are free, with memory or without, and of those that hold content.
    backed_bytes : int
        Bytes of the pages that have memory, free or in use.
    bound_by : {"size", "filesystem", "cgroup", "memory"}
        Which limit leaves the pool the least room to take more memory, as this process sees them: its size, the file system of
        the pools, a memory cgroup, or the machine's memory.
    pages_by_state : PagesByState
    folios_by_type : FoliosByType
    pins : int
        References to folios beyond the cache's own.
    mappings : int
        Cached objects.
    max_clients : int
        How many processes may be attached at once.
    locks : tuple of LockInfo
        The locks that are held.
    clients : tuple of ClientInfo
        The processes that are attached, this one among them, and dead ones that have not been settled.
    counters : Counters
    """

    name: str
    path: str
    pool_bytes: int
    max_bytes: int
    page_size: int
    pages: int
    metadata_bytes: int
    metadata_ratio: float
    free_bytes: int
    backed_bytes: int
    cached_bytes: int
    bound_by: Literal["size", "filesystem", "cgroup", "memory"]
    pages_by_state: PagesByState
    folios_by_type: FoliosByType
    pins: int
    mappings: int
    max_clients: int
    locks: tuple[LockInfo, ...]
    clients: tuple[ClientInfo, ...]
    counters: Counters

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as a new dict for JSON, in their order. A record within is a dict, and a tuple a list."""
        return _dict(self)

    def _repr_html_(self) -> str:
        """What a notebook shows."""
        from .html import stat  # here: only notebooks need it

        return stat(self)
