"""The parameters with which a pool is created, and the geometry of its segment, which is computed from them."""

from typing import SupportsIndex, TypeAlias

from ..errors import PoolMismatchError
from ..mm import layout
from ..sizes import format_size, parse_count, parse_size

Geometry: TypeAlias = dict[str, int]  # of ``compute``
Wanted: TypeAlias = dict[str, int | None]  # of ``parameters``

DEFAULT_SIZE = 4 << 30
DEFAULT_PAGE_SIZE = 16 << 10
DEFAULT_CLIENTS = 256
PAGE_SIZE_MIN = 4 << 10
PAGE_SIZE_MAX = 2 << 20
PAGES_MIN = 64
CLIENTS_MAX = 65536
# An object's number has OBJECT_BITS bits and counts in units of 2^OBJECT_SHIFT bytes.
SIZE_MAX = 1 << (layout.OBJECT_BITS + layout.OBJECT_SHIFT)
DEFAULTS = {"size": DEFAULT_SIZE, "page_size": DEFAULT_PAGE_SIZE, "clients": DEFAULT_CLIENTS}


def compute(pages: int, page_size: int, clients: int) -> Geometry:
    """Return the geometry of a segment: counts, and the offset of each table, by the names of the header's fields.

    ``size`` is that of the file, in bytes.
    """
    shape = {
        "npages": pages,
        "page_shift": page_size.bit_length() - 1,
        "nclients": clients,
        "nbuckets": max(64, _power_of_two(pages) // 4),
        "nghosts": _align(pages, layout.GHOST_WAYS),
        "nnames": _align(pages * page_size // (layout.NAME_SHARE * layout.NAME_SIZE), layout.NAME_WAYS),
    }
    chunks = pages * page_size + (1 << layout.CHUNK_SHIFT) - 1 >> layout.CHUNK_SHIFT
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


def is_possible(page_shift: int, pages: int, clients: int) -> bool:
    """Return True if a segment may have this page size (log2), number of pages and number of clients."""
    return (
        PAGE_SIZE_MIN <= 1 << min(page_shift, 64) <= PAGE_SIZE_MAX
        and PAGES_MIN <= pages <= SIZE_MAX >> page_shift
        and 1 <= clients <= CLIENTS_MAX
    )


def parameters(
    size: SupportsIndex | str | None = None, page_size: SupportsIndex | str | None = None, clients: SupportsIndex | None = None
) -> Wanted:
    """Return the parameters asked for, as numbers; None stays None. Raises ValueError."""
    pool_bytes = None if size is None else parse_size(size)
    page_bytes = None if page_size is None else parse_size(page_size, "page_size")
    processes = None if clients is None else parse_count(clients, "clients")
    page = page_bytes or DEFAULT_PAGE_SIZE
    if page & (page - 1) or not PAGE_SIZE_MIN <= page <= PAGE_SIZE_MAX:
        least, most = format_size(PAGE_SIZE_MIN), format_size(PAGE_SIZE_MAX)
        raise ValueError(f"page_size must be a power of two from {least} to {most}, not {page_size!r}")
    pool = pool_bytes or DEFAULT_SIZE
    if not PAGES_MIN * page <= pool <= SIZE_MAX:
        least, most = format_size(PAGES_MIN * page), format_size(SIZE_MAX)
        raise ValueError(f"size must be from {PAGES_MIN} pages ({least}) to {most}, not {format_size(pool)}")
    if processes is not None and not 1 <= processes <= CLIENTS_MAX:
        raise ValueError(f"clients must be a number from 1 to {CLIENTS_MAX}, not {clients!r}")
    return {"size": pool_bytes, "page_size": page_bytes, "clients": processes}


def permissions(mode: SupportsIndex) -> int:
    """Return mode as the number of a pool's permissions. Raises ValueError."""
    number = parse_count(mode, "mode", "permissions, such as 0o600")
    if not 0 <= number <= 0o777 or number & 0o600 != 0o600:
        shown = oct(number) if number >= 0 else repr(mode)
        raise ValueError(f"mode must be permissions with which the owner may read and write, such as 0o600, not {shown}")
    return number


def check_parameters(name: str, shape: Geometry, wanted: Wanted) -> None:
    """Raise PoolMismatchError if a segment of this geometry differs from the parameters in ``wanted`` that are not None."""
    found = {
        "size": shape["npages"] << shape["page_shift"],
        "page_size": 1 << shape["page_shift"],
        "clients": shape["nclients"],
    }
    asked_for = {key: value for key, value in wanted.items() if value is not None}
    if "size" in asked_for:
        asked_for["size"] = asked_for["size"] // found["page_size"] * found["page_size"]
    differing = [key for key, value in asked_for.items() if value != found[key]]
    if differing:
        asked = ", ".join(f"{key}={_shown(key, asked_for[key])}" for key in differing)
        has = ", ".join(f"{key}={_shown(key, found[key])}" for key in differing)
        raise PoolMismatchError(
            f"pool {name!r} exists with {has}, but {asked} was asked for; leave it out, use another name, "
            f"or remove the pool first (foliocache rm {name})"
        )


def _shown(key: str, value: int) -> str:
    return str(value) if key == "clients" else format_size(value)


def _power_of_two(n: int) -> int:
    return 1 << (n - 1).bit_length()


def _align(n: int, to: int) -> int:
    return (n + to - 1) // to * to
