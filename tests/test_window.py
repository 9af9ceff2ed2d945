"""Windows: contiguous, zero-copy, pinned."""

import itertools
import os
import random

import numpy as np
import pytest

import foliocache
from foliocache.mm import layout


@pytest.fixture
def mapping(pool, source):
    return pool.mapping("k", len(source.content), "v", source.read)


@pytest.mark.parametrize("span", [(0, None), (5, 100), (16_000, 1_000), (123_456, 354_321), (1_000_000, 100), (0, 16384)])
def test_every_range_is_one_contiguous_buffer(mapping, source, span):
    offset, length = span
    with mapping.window(offset, length) as window:
        assert bytes(window) == source.content[offset:][:length]
        assert memoryview(window).readonly
    assert mapping.pool.stat().pins == 0


def test_nothing_is_copied(pool, mapping):
    with mapping.window() as window, mapping.lease(3 * 16384, 16384) as lease:
        (cached,) = pool.mappings()
        assert cached.cached_bytes == mapping.size and cached.pins > cached.cached_folios
        assert bytes(np.frombuffer(window, np.uint8)[3 * 16384 : 4 * 16384]) == bytes(lease)
    assert pool.stat().folios_by_type.table == 0


def mappings_of(pool):
    inode = str(os.stat(pool.path).st_ino)
    with open("/proc/self/maps") as file:
        return sum(line.split()[4] == inode for line in file)


def test_folios_in_a_row_need_no_mapping_and_each_other_run_needs_one(pool, source):
    before = mappings_of(pool)
    for order in ((0, 1, 2, 3, 4, 5, 6, 7), (1, 0, 2, 5, 4, 3, 7, 6), (7, 6, 5, 4, 3, 2, 1, 0)):
        mapping = pool.mapping(f"k{order}", 8 << 14, "v", source.read, folio_size=1 << 14)
        for folio in order:
            mapping.read_bytes(folio << 14, 1)
        places = []
        for folio in range(8):
            with mapping.lease(folio << 14) as lease:
                places.append(np.frombuffer(lease, np.uint8).ctypes.data)
        runs = 1 + sum(b - a != 1 << 14 for a, b in itertools.pairwise(places))
        for offset, length in ((0, 8 << 14), (5000, 100_000)):
            with mapping.window(offset, length) as window, mapping.window(offset, length, writable="copy") as private:
                assert bytes(window) == bytes(private) == source.content[offset:][:length]
                memoryview(private)[:] = bytes(length)
                assert bytes(window) == source.content[offset:][:length]
            with mapping.window() as window:
                assert mappings_of(pool) - before == (0 if runs == 1 else runs)
        pool.forget(mapping.key)
    assert mappings_of(pool) == before and pool.stat().pins == 0


def test_views_keep_it_open(pool, mapping, source):
    window = mapping.window()
    array = np.frombuffer(window, np.uint8)
    window.close()
    with pytest.raises(foliocache.LeaseError, match="closed"):
        memoryview(window)
    assert array.tobytes() == source.content
    del array
    assert pool.stat().pins == 0


def window_pieces(window):
    offset = 0
    while offset < len(window):
        with window.lease(offset) as lease:
            yield bytes(lease)
            offset += len(lease)


def test_a_windows_folios_can_be_leased_alone(pool, mapping, source):
    with mapping.window(20_000, 100_000) as window:
        lease, rest = window.lease(30_000, 5), window.lease(100_000 - 7)
        for offset in (-1, 100_000, 2**70):
            with pytest.raises(IndexError, match=f"^byte {offset} of a window of 100000$"):
                window.lease(offset)
        for length in (0, -5):
            with pytest.raises(ValueError, match="at least 1 byte"):
                window.lease(0, length)
        assert b"".join(window_pieces(window)) == bytes(window)
    assert bytes(lease) == source.content[50_000:50_005] and bytes(rest) == source.content[120_000 - 7 : 120_000]
    rest.release()
    assert pool.stat().pins == 1
    lease.release()


@pytest.mark.parametrize(("folios", "held", "tables"), [(8, 1500, 0), (9, 900, 0), (9, 1500, 1), (200, 0, 0), (200, 1500, 1)])
def test_a_process_with_many_leases_pins_folios_by_a_table(pool, make_source, folios, held, tables):
    source = make_source(folios << 14)
    mapping = pool.mapping("k", folios << 14, "v", source.read, folio_size=1 << 14)
    leases = [mapping.lease(0) for _ in range(held)]
    window = mapping.window()
    assert pool.stat().pages_by_state.table == tables
    assert pool.stat().pins == held + folios + tables
    with window.lease(5) as lease:
        assert bytes(lease) == source.content[5 : 1 << 14]
    del window, leases
    assert (pool.stat().pages_by_state.table, pool.stat().pins) == (0, 0)


def test_mapped_folios_are_not_evicted(pool, mapping, source, make_source):
    with mapping.window(0, 500_000) as window:
        other = make_source(20 << 20)
        assert pool.mapping("big", 20 << 20, "v", other.read).read(0, 20 << 20) == other.content
        assert bytes(window) == source.content[:500_000]
    assert source.bytes_read < 2 * 500_000


@pytest.mark.parametrize("more", [1, 1 << 16, 4 << 20])
def test_a_window_larger_than_the_pool_is_refused_before_anything_is_read(pool, make_source, more):
    size = pool.pool_bytes + more
    source = make_source(size)
    mapping = pool.mapping("big", size, "v", source.read)
    with pytest.raises(foliocache.FoliocacheError, match=f"a window of {size} bytes is larger than the pool"):
        mapping.window()
    assert source.bytes_read == pool.stat().pins == pool.stat().pages_by_state.table == 0


def test_a_window_that_the_pool_has_no_room_for_is_a_clear_error(pool, make_source):
    """It is as large as the pool, which has tables, too."""
    mapping = pool.mapping("big", pool.pool_bytes, "v", make_source(pool.pool_bytes).read)
    with pytest.raises(foliocache.FoliocacheError, match="no room for a window"):
        mapping.window()
    assert pool.stat().pins == 0 and pool.stat().pages_by_state.table == 0


@pytest.mark.parametrize("writable", [None, "copy"])
def test_a_window_more_than_a_process_can_hold_says_so(pool, mapping, writable):
    windows = [mapping.window(0, 5000) for _ in range(layout.PINS - 1)]
    with pytest.raises(foliocache.FoliocacheError, match="this process holds 1983 leases and windows, as many as it can"):
        mapping.window(0, 5000, writable=writable)
    windows.pop()
    assert len(mapping.window(0, 5000, writable=writable)) == 5000


def test_an_empty_window(mapping):
    with mapping.window(mapping.size) as window:
        assert len(window) == 0 and bytes(window) == b""


def test_a_write_through_a_window_is_refused(mapping):
    with mapping.window() as window, pytest.raises(ValueError, match="read-only"):
        np.frombuffer(window, np.uint8)[0] = 1


def test_a_mapping_is_a_buffer_as_its_window_is(pool, mapping, source):
    view = memoryview(mapping)
    assert view.readonly and view.contiguous and view.nbytes == len(mapping) and view == source.content
    assert bytes(mapping) == source.content and source.content.startswith(bytes(np.frombuffer(mapping, np.uint8)[:99]))
    assert pool.stat().pins > 0
    view.release()
    assert pool.stat().pins == 0
    with pytest.raises((ValueError, BufferError), match="read-only"):
        np.frombuffer(mapping, np.uint8)[0] = 1
    assert bytes(pool.mapping("empty", 0, "v", source.read)) == b""
    with pytest.raises(foliocache.FoliocacheError, match="larger than the pool"):
        memoryview(pool.mapping("big", 8 << 20, "v", lambda offset, length: bytes(length)))
    pool.close()
    with pytest.raises(foliocache.FoliocacheError, match="closed"):
        memoryview(mapping)


def test_what_keeps_a_mapping_but_not_its_buffer_finds_the_bytes(pool, source):
    """As ``numpy.ndarray`` does, which releases the buffer, and relies on the object alone."""
    mapping = pool.mapping("kept", len(source.content), "v", source.read)
    one, other = (np.ndarray((len(mapping),), np.uint8, mapping) for _ in range(2))
    assert np.shares_memory(one, other) and one.base is mapping
    del mapping
    pool.mapping("another", pool.pool_bytes, "v", lambda offset, length: bytes(length)).read(0, pool.pool_bytes)
    assert one.tobytes() == source.content and not one.flags.writeable
    child = os.fork()
    if child == 0:
        os._exit(0 if np.ndarray((99,), np.uint8, one.base).tobytes() == source.content[:99] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert one.tobytes() == source.content
    del one, other
    assert pool.stat().pins == 0


def test_objects_that_come_and_go_are_mapped_run_by_run(pool_name):
    """Folios of one object come to lie apart; its window has their bytes, and a mapping for each run."""
    pool = foliocache.open(pool_name, size="8MiB")
    page, randomly, kept = pool.page_size, random.Random(7), {}
    pool.put("first", np.zeros(3 * page + 1, np.uint8))
    before = mappings_of(pool)
    for n in range(400):
        key, size = f"k{randomly.randrange(30)}", randomly.randrange(1, 20 * page)
        if randomly.random() < 0.4:
            pool.delete(key)
            kept.pop(key, None)
        elif pool.put(key, np.full(size, n % 251, np.uint8)):
            kept[key] = size, n % 251
        if kept:
            key = randomly.choice([*kept])
            array = pool.get(key)
            assert array is None or (len(array), set(array[:: page // 2].tolist())) == (kept[key][0], {kept[key][1]})
    views = [array for key in kept if (array := pool.get(key)) is not None]
    assert len(views) > 5 and mappings_of(pool) >= before
    del views, array
    assert mappings_of(pool) == before and pool.stat().pins == 0 and pool.audit() == []
