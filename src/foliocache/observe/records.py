"""The results of ``Pool.stat``, ``audit``, ``repair`` and ``mappings``: frozen dataclasses.

Each has ``to_dict``: the same in dicts, lists, strings and numbers, as ``foliocache stat --json`` and its like print it.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal


@dataclass(frozen=True, slots=True)
class Record:
    """Base of them all."""

    def to_dict(self) -> dict[str, Any]:
        """The fields in their order, records in them as dicts and tuples as lists: ready for JSON.

        Returns
        -------
        dict
            A new one; changing it changes nothing else.
        """
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}


def _plain(value: Any) -> Any:
    if isinstance(value, Record):
        return value.to_dict()
    return [_plain(each) for each in value] if isinstance(value, tuple) else value


@dataclass(frozen=True, slots=True)
class Finding(Record):
    """One thing in a pool that does not agree with the rest of it.

    Attributes
    ----------
    check : str
        The kind of contradiction, one word: ``"count"``, ``"queue"``, ``"lock"``, ...
    where : str
        Where it is, such as ``"pfn 17"`` or ``"slot 3"``.
    message : str
        What is wrong there, for people.
    """

    check: str
    where: str
    message: str


@dataclass(frozen=True, slots=True)
class ObjectInfo(Record):
    """One cached object at one version.

    Attributes
    ----------
    key, version : str
        What it is called; long ones are cut to what the pool keeps of them.
    size : int
        Its length in bytes.
    folio_size : int
        Bytes of a folio of it; the last one is shorter.
    folios : int
        How many folios it has.
    cached_folios : int
        How many of them are in the pool.
    cached_bytes : int
        The bytes of the object in those.
    pins : int
        References to those folios beyond the cache's own: leases, windows, fills.
    """

    key: str
    version: str
    size: int
    folio_size: int
    folios: int
    cached_folios: int
    cached_bytes: int
    pins: int


@dataclass(frozen=True, slots=True)
class NameInfo(Record):
    """What the pool knows of a key.

    Attributes
    ----------
    key : str
        A long one is cut to what the pool keeps of it.
    exists : bool or None
        Whether there is such an object; None while a process asks for the first time. Then the rest is empty.
    size : int
        The object's length in bytes.
    version : str
        Its version.
    extra_bytes : int
        How much the asker has added.
    age : float or None
        Seconds since the question was asked.
    """

    key: str
    exists: bool | None
    size: int
    version: str
    extra_bytes: int
    age: float | None


@dataclass(frozen=True, slots=True)
class ClientInfo(Record):
    """A process that has a client slot of the pool, or had one.

    Attributes
    ----------
    slot : int
        The number of the slot.
    pid : int
        The process, as its own pid namespace counts; 0 when that was not known (there was no /proc).
    pid_namespace : int
        The inode of that namespace; 0 when that was not known.
    attached : float
        When it took the slot, in seconds since the epoch.
    state : {"attached", "dead", "clean"}
        ``"dead"`` is a client that has not been reaped yet, or not completely, because a living one still uses a folio that it
        died upon; ``"clean"`` one that has gone.
    pins : int
        Folios that it has pinned.
    """

    slot: int
    pid: int
    pid_namespace: int
    attached: float
    state: Literal["attached", "dead", "clean"]
    pins: int


@dataclass(frozen=True, slots=True)
class LockInfo(Record):
    """A lock of the pool that was held at the moment of the look.

    One that is still there at the next look, with the same slot, belongs to a process that has stopped.

    Attributes
    ----------
    lock : str
        Its name.
    slot : int
        The client slot of its owner.
    pid : int or None
        The process in that slot; None for a slot that nobody has ever had, which only a damaged pool shows.
    """

    lock: str
    slot: int
    pid: int | None


@dataclass(frozen=True, slots=True)
class Counters(Record):
    """What the processes of a pool have counted since it was made, all of them together.

    Attributes
    ----------
    hits, misses : int
        Folios that were found, and that had to be read.
    fills, fill_bytes : int
        Folios that were read from a source and cached, and their bytes.
    evictions : int
        Folios that were evicted to make room.
    bypasses : int
        Folios that were read privately and not cached, because there was no room.
    waits : int
        Waits for another process or thread that was filling a folio.
    readahead : int
        Folios that were read in the background before they were asked for.
    errors : int
        Fills that failed.
    stalls : int
        Locks that were not had in time, because their owner was stopped.
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


@dataclass(frozen=True, slots=True)
class PagesByState(Record):
    """The pages of a pool; each is in one of these states.

    Attributes
    ----------
    free : int
        In the allocator, with memory.
    hole : int
        In the allocator, or not even there, without memory: they were never needed.
    file, node, inode, table, name : int
        Content of objects; nodes of their indexes; records of objects; page tables of windows; what keys mean.
    frozen : int
        Being made or destroyed at this moment, or lost: an audit tells.
    """

    free: int
    hole: int
    file: int
    node: int
    inode: int
    table: int
    name: int
    frozen: int


@dataclass(frozen=True, slots=True)
class FoliosByType(Record):
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


@dataclass(frozen=True, slots=True)
class Stat(Record):
    """A pool at one moment. It is looked at without a lock, so the parts need not be of the very same instant.

    Attributes
    ----------
    name : str
        The pool.
    path : str
        Its file.
    pool_bytes : int
        Bytes of all pages together.
    page_size : int
        Bytes of a page.
    pages : int
        How many there are.
    metadata_bytes : int
        What the file has besides the pages: tables and client slots.
    metadata_ratio : float
        The same as a share of `pool_bytes`.
    free_bytes, cached_bytes : int
        Bytes of the pages that are free, with memory or without, and of those that hold content.
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
        The processes that are attached, this one among them, and the dead that have not been settled.
    counters : Counters
    """

    name: str
    path: str
    pool_bytes: int
    page_size: int
    pages: int
    metadata_bytes: int
    metadata_ratio: float
    free_bytes: int
    cached_bytes: int
    pages_by_state: PagesByState
    folios_by_type: FoliosByType
    pins: int
    mappings: int
    max_clients: int
    locks: tuple[LockInfo, ...]
    clients: tuple[ClientInfo, ...]
    counters: Counters
