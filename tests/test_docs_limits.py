"""docs/limits.md has the numbers of the source."""

import os
import re
import subprocess
import sys

import pytest
from documents import PACKAGE, page, rows

from foliocache.filler import engine, waiter
from foliocache.mm import layout
from foliocache.pool import client, creation, files, geometry, mapping, names, pool
from foliocache.sizes import format_size

TEXT = page("limits.md")
ROWS = {limit: value for limit, value, _ in rows(TEXT, "limit", "value")}
REASONS = {limit: why for limit, _, why in rows(TEXT, "limit", "value")}


def spaced(n):
    """16 KiB, as the documents write it."""
    return re.sub(r"(\d)([KMGT]iB)", r"\1 \2", format_size(n))


def power(n):
    assert n == 1 << n.bit_length() - 1
    return f"2^{n.bit_length() - 1}"


def gather_share():
    """A C constant of folio_steps.pyx."""
    return int(re.search(r"^cdef u64 READ_SHARE = (\d+)$", (PACKAGE / "pool" / "folio_steps.pyx").read_text(), re.MULTILINE)[1])


NUMBERS = {
    "pool": lambda: f"{geometry.PAGES_MIN} pages to {spaced(geometry.SIZE_MAX)};",
    "page size": lambda: (
        f"{spaced(geometry.PAGE_SIZE_MIN)} to {spaced(geometry.PAGE_SIZE_MAX)}; default {spaced(geometry.DEFAULT_PAGE_SIZE)}"
    ),
    "block": lambda: f"{power(1 << layout.MAX_ORDER)} pages",
    "unit": lambda: f"{spaced(mapping.UNIT_MAX)} and 1/{mapping.FOLIOS_PER_POOL} of the pool;",
    "folio": lambda: (
        f"{2**layout.SPAN_MAX} units, {spaced(mapping.FOLIO_MAX)}, 1/{mapping.FOLIOS_PER_POOL} of the pool, "
        f"and {power(1 << layout.MAX_ORDER)} pages;"
    ),
    "units of one object": lambda: power(1 << layout.XA_INDEX_BITS),
    "references to one folio": lambda: power(layout.REF_MAX),
    "wait for another creator of the same pool": lambda: (
        f"{creation._CREATION_WAIT:.0f} s, and 1 s for each {spaced(creation._CREATION_RATE)};"
    ),
    "clients": lambda: f"{geometry.DEFAULT_CLIENTS} processes at once; 1 to {geometry.CLIENTS_MAX:,} if",
    "leases and windows of one process": lambda: f"{layout.PINS - 1:,} at once",
    "pool name": lambda: "1 to 100 of letters, digits, `_`, `-`, `.`; not `.` first",
    "text of key and version": lambda: (
        f"{layout.MAPPING_TEXT_MAX} bytes together, the version's part at most {layout.MAPPING_TEXT_MAX // 4}"
    ),
    "units in a window": lambda: f"{power(1 << 14 + layout.MAX_ORDER - 2)} with pages of 16 KiB;",
    "readahead": lambda: (
        f"{spaced(mapping.READAHEAD_MAX)} and 1/{mapping.READAHEAD_SHARE} of the pool; {spaced(mapping.READAHEAD_ALONE)} where"
    ),
    "requests of one process to its sources": lambda: (
        f"{engine.CONCURRENCY} that are ahead of their use, {engine.THREADS_MAX} in all"
    ),
    "folios that a thread of a process waits for, for its event loops": lambda: f"{waiter.WORDS}; then",
    "wait for another process's fill": lambda: f"{pool.FILL_TIMEOUT:.0f} s, then",
    "wait for a lock": lambda: f"{layout.LOCK_PATIENCE_NS // 10**9} s, then",
    "gather": lambda: f"at most 1/{gather_share()} of the pool",
    "names": lambda: (
        f"1 for {spaced(layout.NAME_SHARE * layout.NAME_SIZE)} of the pool, which is 1/{layout.NAME_SHARE} of its pages"
    ),
    "a name's text": lambda: f"first {layout.NAME_TEXT_MAX} bytes",
    "a name's version and extra bytes": lambda: f"{layout.NAME_DATA_MAX} bytes together, extra {names.EXTRA_MAX} at most",
    "mapping records ever made in a pool": lambda: power(1 << 64 - layout.OBJECT_BITS),
}


POOL = 4 << 30


def test_every_limit_is_held():
    assert list(ROWS) == list(NUMBERS)


@pytest.mark.parametrize("limit", NUMBERS)
def test_a_limit(limit):
    assert NUMBERS[limit]() in ROWS[limit]


def test_what_stands_beside_the_numbers():
    assert f"{layout.OBJECT_BITS} bits and counts in units of {1 << layout.OBJECT_SHIFT} bytes" in REASONS["pool"]
    assert f"{spaced(layout.CLIENT_SIZE)} of shared memory each" in REASONS["clients"]
    assert REASONS["units of one object"].startswith(f"{layout.XA_HEIGHT_MAX} levels")
    assert pool.FILL_TIMEOUT_MAX == 1e9 and "up to 10^9 s" in ROWS["wait for another process's fill"]


def test_what_the_text_says():
    text = " ".join(TEXT.split())
    whole = geometry.compute(POOL >> 14, geometry.DEFAULT_PAGE_SIZE, geometry.DEFAULT_CLIENTS)
    assert f"The tables take {100 * whole['data'] / POOL:.2f} % of a {spaced(POOL)} pool" in text
    assert f"mapping record takes {layout.MAPPING_SIZE} bytes more" in text
    assert f"into at most {mapping.UNITS_PER_OBJECT} units" in text
    assert f"notices Ctrl-C within {layout.WAIT_SLICE_NS / 1e9} s" in text
    assert f"and for {client.ADOPT_WAIT:.0f} s at most" in text


def test_unit_sizes():
    """Objects up to 512 KiB have units of a page, and those over 1 MiB have units of 64 KiB."""

    def order(size):
        return mapping._order_for(size, geometry.DEFAULT_PAGE_SIZE, POOL)

    assert [order(512 << 10), order((512 << 10) + 1)] == [0, 1]
    assert [geometry.DEFAULT_PAGE_SIZE << order(size) for size in (1 << 20, (1 << 20) + 1, 1 << 40)] == [
        1 << 15,
        1 << 16,
        1 << 16,
    ]


def test_the_longest_name():
    assert files.path_of("a" * 100).endswith("a" * 100)
    for name in ("", "a" * 101, ".a", "a/b"):
        with pytest.raises(ValueError, match="use 1 to 100 letters"):
            files.path_of(name)


def test_descriptors_of_a_pool(pool_name):
    code = """
import os, sys, foliocache
before = set(os.listdir("/proc/self/fd"))
pool = foliocache.open(sys.argv[1], size="1MiB", page_size=4096)
with pool.mapping("k", 100, "1", lambda offset, length: bytes(length)).lease(0):
    new = set(os.listdir("/proc/self/fd")) - before
    groups = [fd for fd in new if os.path.exists(f"/proc/self/fd/{fd}") and "/memory." in os.readlink(f"/proc/self/fd/{fd}")]
    print(len(new) - len(groups))
"""
    command = [sys.executable, "-c", code, pool_name]
    counted = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, env=dict(os.environ)).stdout
    assert int(counted) == 3 and "has three descriptors open" in TEXT


def test_every_constant_that_it_names_is_there():
    named = set(re.findall(r"`(layout|geometry|creation|engine|mapping|names|pool|client|lease)\.(_?[A-Z_]+)`", TEXT))
    assert len(named) > 15
    for module, name in named:
        path = PACKAGE / {"layout": "mm", "engine": "filler"}.get(module, "pool") / f"{module}.py"
        source = (
            path.read_text() if path.exists() else (PACKAGE / "pool" / f"{module}.pyx").read_text().replace("cdef u64 ", "")
        )
        assert re.search(rf"^{name} = ", source, re.MULTILINE), f"{module}.{name}"
