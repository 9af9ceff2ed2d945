"""The parameters with which a pool is created, and the geometry of its segment, which is computed from them."""

import resource
from typing import SupportsIndex, TypeAlias

from ..errors import PoolMismatchError
from ..mm import layout
from ..sizes import format_size, parse_count, parse_share, parse_size, quoted
from . import headroom, machine
from .files import directory

Geometry: TypeAlias = dict[str, int]  # of ``compute``
Wanted: TypeAlias = dict[str, int | None]  # of ``parameters``

DEFAULT_SHARE = 0.25  # of the memory there is, the ceiling of a new pool
GROWTH = 4  # a pool may grow to so many times its first ceiling, or to all memory if that is more
DEFAULT_PAGE_SIZE = 16 << 10
DEFAULT_CLIENTS = 256
# Client slots that have memory from the beginning: as many as fit 1/SLOT_SHARE of the pool, within these bounds.
SLOTS_FIRST = 8
SLOTS_MOST = 64
SLOT_SHARE = 128
PAGE_SIZE_MIN = 4 << 10
PAGE_SIZE_MAX = 2 << 20
PAGES_MIN = 64
# Bytes of a pool that gets its memory in huge pages, where the file system gives some; and where the kernel makes them.
HUGE_MIN = 64 << 20
COLLAPSE_MIN = 256 << 20
CLIENTS_MAX = 65536
# An object's number has OBJECT_BITS bits and counts in units of 2^OBJECT_SHIFT bytes.
SIZE_MAX = 1 << (layout.OBJECT_BITS + layout.OBJECT_SHIFT)
SIZE_MIN = PAGES_MIN * DEFAULT_PAGE_SIZE


def compute(
    pages: int, page_size: int, clients: int, first: int | None = None, chunk_shift: int = layout.CHUNK_SHIFT
) -> Geometry:
    """Return the geometry of a segment: counts, and the offset of each table, by the names of the header's fields.

    ``pages`` is the most that the pool may have, and ``first`` how many it may have at first (all of them, for None): the
    tables that are hashed into are made for so many, because they have memory from the beginning. ``chunk_shift`` is log2 of
    the bytes that get memory together. ``size`` is that of the file, and ``pool`` that of the first pages, in bytes.
    """
    first = pages if first is None else first
    shape = {
        "npages": pages,
        "page_shift": page_size.bit_length() - 1,
        "nclients": clients,
        "nbuckets": max(64, _power_of_two(first) // 4),
        "nghosts": _align(first, layout.GHOST_WAYS),
        "nnames": _align(first * page_size // (layout.NAME_SHARE * layout.NAME_SIZE), layout.NAME_WAYS),
        "pool": first * page_size,
        "chunk_shift": chunk_shift,
    }
    chunks = pages * page_size + (1 << chunk_shift) - 1 >> chunk_shift
    at = layout.HEADER_SIZE
    for table, count, width in (
        ("clients", clients, layout.CLIENT_SIZE),
        ("buckets", shape["nbuckets"], 4),
        ("ghosts", shape["nghosts"], 4),
        ("names", shape["nnames"], 4),
        ("backed", (chunks + 31) // 32, 4),
        ("memmap", pages, layout.FOLIO_SIZE),
    ):
        shape[table] = at
        at = _align(at + count * width, layout.LINE)
    shape["data"] = _align(at, layout.DATA_ALIGN)
    shape["size"] = shape["data"] + pages * page_size
    return shape


def first_slots(shape: Geometry) -> int:
    """Return how many client slots of a new pool have memory from the beginning. The others get it one by one."""
    fit = shape["pool"] // SLOT_SHARE // layout.CLIENT_SIZE
    return min(shape["nclients"], max(SLOTS_FIRST, min(SLOTS_MOST, fit)))


def table_bytes(shape: Geometry, slots: int) -> int:
    """Return the bytes of the tables that are not sparse, with so many client slots."""
    return shape["memmap"] - (shape["nclients"] - slots) * layout.CLIENT_SIZE


def is_possible(page_shift: int, pages: int, clients: int, pool: int, chunk_shift: int) -> bool:
    """Return True if a segment may have this page size (log2), number of pages, number of clients, bytes at first, and bytes
    that get memory together (log2)."""
    return (
        PAGE_SIZE_MIN <= 1 << min(page_shift, 64) <= PAGE_SIZE_MAX
        and PAGES_MIN <= pool >> page_shift <= pages <= SIZE_MAX >> page_shift
        and pool & (1 << page_shift) - 1 == 0
        and 1 <= clients <= CLIENTS_MAX
        and chunk_shift in (layout.CHUNK_SHIFT, layout.HUGE_SHIFT)
    )


def is_huge(size: int, wanted: int | None = None) -> bool:
    """Return True if a new pool of this size gets its memory in huge pages, where they are wanted (None: by its size)."""
    if size < HUGE_MIN or wanted == 0:
        return False
    found = machine.huge_pages(directory())
    return size >= COLLAPSE_MIN or wanted is not None if found == "collapsed" else bool(found)


def parameters(
    size: SupportsIndex | str | None = None,
    page_size: SupportsIndex | str | None = None,
    clients: SupportsIndex | None = None,
    max_size: SupportsIndex | str | None = None,
    huge: bool | None = None,
) -> Wanted:
    """Return the parameters asked for, as numbers; None stays None. Raises ValueError."""
    page_bytes = None if page_size is None else parse_size(page_size, "page_size")
    processes = None if clients is None else parse_count(clients, "clients")
    page = page_bytes or DEFAULT_PAGE_SIZE
    if page & (page - 1) or not PAGE_SIZE_MIN <= page <= PAGE_SIZE_MAX:
        least, most = format_size(PAGE_SIZE_MIN), format_size(PAGE_SIZE_MAX)
        raise ValueError(f"page_size must be a power of two from {least} to {most}, not {quoted(page_size)}")
    pool_bytes = None if size is None else pool_size(size, page)
    most_bytes = None if max_size is None else pool_size(max_size, page, "max_size")
    if pool_bytes and most_bytes and most_bytes < pool_bytes:
        raise ValueError(f"max_size must be at least the size, {format_size(pool_bytes)}, not {format_size(most_bytes)}")
    if processes is not None and not 1 <= processes <= CLIENTS_MAX:
        raise ValueError(f"clients must be a number from 1 to {CLIENTS_MAX}, not {quoted(clients)}")
    if not isinstance(huge, bool | None):
        raise ValueError(f"huge must be True or False, not {quoted(huge)}")
    return {"size": pool_bytes, "page_size": page_bytes, "clients": processes, "max_size": most_bytes, "huge": huge}


def pool_size(size: SupportsIndex | str, page_size: int, what: str = "size") -> int:
    """Return the bytes of a pool from bytes, a string such as "4GiB", or a share of the memory there is, such as "25%". Raises
    ValueError."""
    share = parse_share(size, what) if isinstance(size, str) and size.rstrip().endswith("%") else None
    found = parse_size(size, what) if share is None else _share(share, page_size)
    least, most = PAGES_MIN * page_size, SIZE_MAX
    if not least <= found <= most:
        raise ValueError(
            f"{what} must be from {PAGES_MIN} pages ({format_size(least)}) to {format_size(most)}, not {format_size(found)}"
        )
    return found


def for_new_pool(wanted: Wanted) -> dict[str, int]:
    """Return the parameters of a new pool: what is wanted, and the defaults. ``max_size`` is at least ``size``."""
    page = wanted["page_size"] or DEFAULT_PAGE_SIZE
    size = wanted["size"] or min(_share(DEFAULT_SHARE, page), wanted["max_size"] or SIZE_MAX)
    most = wanted["max_size"] or _may_grow_to(size)
    chunk = layout.HUGE_SHIFT if is_huge(size, wanted["huge"]) else layout.CHUNK_SHIFT
    return {
        "size": size,
        "page_size": page,
        "clients": wanted["clients"] or DEFAULT_CLIENTS,
        "max_size": most,
        "chunk_shift": chunk,
    }


def floor(min_free: SupportsIndex | str | None) -> tuple[float, int]:
    """Return what stays free of each limit of memory, from a share such as "5%", or bytes: (share, at least so many bytes), or
    (0, bytes). Raises ValueError."""
    if min_free is None:
        return headroom.FLOOR, headroom.LEAST
    if isinstance(min_free, str) and min_free.rstrip().endswith("%"):
        return parse_share(min_free, "min_free"), 0
    if not isinstance(min_free, str) and parse_count(min_free, "min_free", "bytes, or a string such as '5%' or '1GiB'") == 0:
        return 0.0, 0
    return 0.0, min(parse_size(min_free, "min_free"), SIZE_MAX)


def _share(share: float, page_size: int) -> int:
    """Return a share of the memory there is for a pool: of the smaller of the machine's and the file system's."""
    found = min(machine.memory(), machine.room(directory()))
    return min(max(int(found * share), PAGES_MIN * page_size), SIZE_MAX)


def _may_grow_to(size: int) -> int:
    """Return the default of ``max_size``; ``size`` where this process may not have files, or address space, of any size."""
    for limit in (resource.RLIMIT_FSIZE, resource.RLIMIT_AS):
        if resource.getrlimit(limit)[0] != resource.RLIM_INFINITY:
            return size
    return min(max(GROWTH * size, machine.memory()), SIZE_MAX)


def permissions(mode: SupportsIndex) -> int:
    """Return mode as the number of a pool's permissions. Raises ValueError."""
    number = parse_count(mode, "mode", "permissions, such as 0o600")
    if not 0 <= number <= 0o777 or number & 0o600 != 0o600:
        shown = oct(number) if number >= 0 else repr(mode)
        raise ValueError(f"mode must be permissions with which the owner may read and write, such as 0o600, not {shown}")
    return number


def check_parameters(name: str, shape: Geometry, pool_bytes: int, wanted: Wanted, exact: bool = False) -> None:
    """Raise PoolMismatchError if a segment differs from the parameters in ``wanted`` that are not None: page size and number of
    clients, and if ``exact``, its present size and the most that it can grow to."""
    page = 1 << shape["page_shift"]
    found = {"page_size": page, "clients": shape["nclients"]}
    if exact:
        found |= {"size": pool_bytes, "max_size": shape["npages"] * page}
    asked_for = {key: value for key, value in wanted.items() if value is not None and key in found}
    for key in ("size", "max_size"):
        if key in asked_for:
            asked_for[key] = asked_for[key] // page * page
    differing = [key for key, value in asked_for.items() if value != found[key]]
    if differing:
        asked = ", ".join(f"{key}={_shown(key, asked_for[key])}" for key in differing)
        has = ", ".join(f"{key}={_shown(key, found[key])}" for key in differing)
        advice = f"foliocache resize {name} {asked_for['size']}" if differing == ["size"] else f"foliocache rm {name}"
        raise PoolMismatchError(
            f"pool {name!r} exists with {has}, but {asked} was asked for; leave it out, use another name, "
            f"or {'change' if differing == ['size'] else 'remove'} the pool first ({advice})"
        )


def _shown(key: str, value: int) -> str:
    return str(value) if key == "clients" else format_size(value)


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


def _align(n: int, to: int) -> int:
    return (n + to - 1) // to * to
