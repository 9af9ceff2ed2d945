"""``foliocache stat``: a pool's sizes, pages, counters and clients."""

from __future__ import annotations

import os
from datetime import datetime
from typing import TYPE_CHECKING

import foliocache
from foliocache.cli.hugepages import huge_bytes
from foliocache.cli.options import Json, Name
from foliocache.cli.output import console, counted, emit_json, number, pairs, percent, table
from foliocache.pool.slot import pid_namespace
from foliocache.sizes import format_size

if TYPE_CHECKING:
    from rich.table import Table

    from foliocache import ClientInfo, Stat
    from foliocache.observe.records import Counters

BOUNDS = {
    "size": "its size", "filesystem": "the file system", "cgroup": "a cgroup's limit", "memory": "the machine's memory",
}  # fmt: skip


def stat(name: Name = "default", /, *, json: Json = False) -> None:
    """Show a pool's sizes, pages by state, hits and misses, and its clients.

    Parameters
    ----------
    name
        The pool.
    json
        Print the result of pool.stat() as JSON, and huge_bytes.
    """
    found = foliocache.attach(name).stat()
    huge = huge_bytes(found)
    if json:
        return emit_json({**found.to_dict(), "huge_bytes": huge})
    out = console()
    out.print(pairs(f"pool {found.name}", _sizes(found, huge)))
    out.print()
    out.print(_pages(found))
    out.print()
    out.print(pairs("counters", ((key, number(value)) for key, value in found.counters.to_dict().items())))
    out.print()
    out.print(_clients(found))
    for note in filter(None, (_held(found), _unsettled(found))):
        out.print()
        out.print(note)


def _sizes(found: Stat, huge: int | None) -> list[tuple[str, str]]:
    """Return the rows of the first table: sizes, hits, misses."""
    counters = found.counters
    lookups = counters.hits + counters.misses
    cached, free = format_size(found.cached_bytes), format_size(found.free_bytes)
    pages = f"{counted(found.pages, 'page')} of {format_size(found.page_size)}"
    return [
        ("file", found.path),
        ("pool", f"{format_size(found.pool_bytes)} in {pages}; may grow to {format_size(found.max_bytes)}"),
        ("memory", f"{format_size(found.backed_bytes)}; {_given_back(counters)}"),
        ("huge pages", _in_huge_pages(huge)),
        ("bound by", BOUNDS[found.bound_by]),
        ("metadata", f"{format_size(found.metadata_bytes)}, {100 * found.metadata_ratio:.2f} % of the pool"),
        ("cached", f"{cached} in {counted(found.mappings, 'mapping')}; {free} free"),
        ("hits", f"{percent(counters.hits, lookups)} of {number(lookups)} lookups"),
        ("pins", number(found.pins)),
    ]


def _in_huge_pages(huge: int | None) -> str:
    """Return how much of the file is in huge pages."""
    return "unknown" if huge is None else f"{format_size(huge)} of the file, as its processes have it mapped"


def _given_back(counters: Counters) -> str:
    """Return how much memory was given back, and how much of that because others needed it."""
    pressed = f", {format_size(counters.given_back_pressure)} under pressure" if counters.given_back_pressure else ""
    return f"{format_size(counters.given_back)} given back{pressed}"


def _pages(found: Stat) -> Table:
    """Return the table of pages by state and folios by type."""
    made = table("pages", "state", ">pages", ">share", ">folios")
    folios = found.folios_by_type.to_dict()
    for state, count in found.pages_by_state.to_dict().items():
        made.add_row(state, number(count), percent(count, found.pages), number(folios[state]) if state in folios else "")
    return made


def _clients(found: Stat) -> Table:
    """Return the table of the attached processes, this one among them, and of dead ones that have not been settled
    completely."""
    made = table("clients", ">slot", ">pid", "state", ">pins", "attached since", "")
    for client in found.clients:
        slot, pid, pins = str(client.slot), str(client.pid), number(client.pins)
        made.add_row(slot, pid, client.state, pins, _since(client.attached), _whose(client))
    return made


def _since(attached: float) -> str:
    """Return when a client attached; a question mark if that is no time, which a damaged slot may have."""
    try:
        return datetime.fromtimestamp(attached).isoformat(" ", "seconds")
    except (ValueError, OverflowError, OSError):
        return "?"


def _whose(client: ClientInfo) -> str:
    """Return a note on a client's pid if it belongs to another pid namespace (a container's), where it means another
    process."""
    here, there = pid_namespace(), client.pid_namespace
    if there and here and there != here:
        return f"its pid is one of the namespace pid:[{there}]"
    return "this command" if client.pid == os.getpid() and client.state == "attached" else ""


def _held(found: Stat) -> str:
    """Return a line on the locks that are held; empty if none is."""
    if not found.locks:
        return ""
    locks = "; ".join(f"{lock.lock} by slot {lock.slot} (pid {lock.pid})" for lock in found.locks)
    return (
        f"locks held: {locks}. A lock is held for microseconds. If you see the same again, that process is stopped, and others "
        "read without caching meanwhile: continue it (kill -CONT) or kill it."
    )


def _unsettled(found: Stat) -> str:
    """Return a line on dead clients; empty if there are none."""
    dead = sum(client.state == "dead" for client in found.clients)
    if not dead:
        return ""
    return (
        f"{counted(dead, 'client')} died, and what it left is not settled completely: another process is about to do that, or "
        f"still uses a page of it. Look again, or run `foliocache fsck {found.name}`, which settles what can be settled."
    )
