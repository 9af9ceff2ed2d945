"""Mappings, leases and fills, as users rely on them."""

import contextlib
import copy
import ctypes
import gc
import multiprocessing
import os
import pickle
import random
import signal
import threading
import time

import numpy as np
import pytest
from units import offsets, unit, units

import foliocache
from foliocache.mm.atomics import Memory
from foliocache.pool.attachment import Attachment
from foliocache.pool.descriptor import Descriptor, open_file
from foliocache.pool.mapping import _order_for, _span_for
from foliocache.pool.segment import Segment
from foliocache.pool.slot import ClientSlot, Reaping

SPAWN = multiprocessing.get_context("spawn")
FORK = multiprocessing.get_context("fork")


def pins(pool):
    return pool.stat().pins


def test_a_lease_is_a_read_only_zero_copy_buffer(pool, source):
    mapping = pool.mapping("k", len(source.content), "v", source.read)
    start, size = 2 * mapping.unit_size + 5, mapping.unit_size - 5
    with mapping.lease(start) as lease:
        view = memoryview(lease)
        assert view.readonly and len(lease) == size
        assert view == source.content[start : start + size]
        assert lease[0] == view[0] and lease[-1] == view[-1] and lease[5:10] == view[5:10]
        with pytest.raises(IndexError):
            lease[size]
        assert np.shares_memory(np.frombuffer(lease, np.uint8), np.frombuffer(mapping.lease(start), np.uint8))
        with pytest.raises(BufferError):
            ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(lease), ctypes.create_string_buffer(200), 1)  # PyBUF_WRITABLE
        view.release()
    assert pins(pool) == 0


def test_views_keep_the_pin_after_release(pool, source):
    mapping = pool.mapping("k", len(source.content), "v", source.read)
    with mapping.lease(0) as lease:
        array = np.frombuffer(lease, dtype=np.uint8)
    with pytest.raises(foliocache.LeaseError, match="released"):
        memoryview(lease)
    with pytest.raises(foliocache.LeaseError, match="released"):
        lease[0]
    lease.release()
    assert pins(pool) == 1 and array[:10].tobytes() == source.content[:10]
    del array
    assert pins(pool) == 0


def test_garbage_collection_releases(pool, source):
    mapping = pool.mapping("k", len(source.content), "v", source.read)
    lease = mapping.lease(0)
    assert pins(pool) == 1
    del lease
    gc.collect()
    assert pins(pool) == 0
    mapping.lease(0)
    assert pins(pool) == 0


def test_the_memory_outlives_the_cache_object(pool_name, source):
    pool = foliocache.open(pool_name, size="4MiB")
    array = np.frombuffer(pool.mapping("k", len(source.content), "v", source.read).lease(0), np.uint8)
    pool.close()
    foliocache.remove(pool_name)
    del pool
    gc.collect()
    assert array.tobytes() == source.content[: len(array)]


def test_leases_cannot_be_made_by_hand():
    with pytest.raises(TypeError):
        foliocache.Lease()


@pytest.mark.parametrize("how", ["read", "readinto", "both"])
def test_every_range_of_an_object(pool, source, how):
    sources = {name: getattr(source, name) for name in ("read", "readinto") if how in (name, "both")}
    mapping = pool.mapping("k", len(source.content), "v", **sources)
    size = mapping.size
    for offset, length in [
        (0, 1),
        (0, size),
        (size - 1, 1),
        (12345, 77_777),
        (size, 5),
        (size + 10, 5),
        (size - 3, 10),
        (0, 0),
    ]:
        expected = source.content[offset : offset + length]
        assert mapping.read(offset, length) == expected
        assert mapping.read_bytes(offset, length) == expected
        target = bytearray(length)
        assert mapping.readinto(offset, target) == len(expected) and target[: len(expected)] == expected
    assert source.bytes_read == size, "every byte is read from the source once"


def test_one_call_of_the_source_for_a_run_of_missing_folios(pool, source):
    mapping = pool.mapping("k", len(source.content), "v", source.read)
    assert mapping.unit_size == 16384
    mapping.read(100_000, 300_000)
    first, last = 100_000 // 16384, 399_999 // 16384
    assert source.calls[0] == (first * 16384, (last + 1 - first) * 16384)
    assert len(source.calls) == 1


def test_bad_arguments(pool, source):
    for size in (-1, 1.5, "10", None, True):
        with pytest.raises(ValueError, match="size"):
            pool.mapping("k", size, "v", source.read)
    with pytest.raises(ValueError, match="must be a string"):
        pool.mapping(b"k", 10)
    with pytest.raises(ValueError, match="too large"):
        pool.mapping("k", 1 << 62)
    mapping = pool.mapping("k", len(source.content), "v", source.read)
    for offset in (mapping.size, -1, 1 << 50):
        with pytest.raises(IndexError):
            mapping.lease(offset)
    with pytest.raises(ValueError, match="negative"):
        mapping.read(-1, 5)
    with pytest.raises(foliocache.SourceError, match="without a source"):
        pool.mapping("never read", 10).lease(0)
    pool.close()
    with pytest.raises(foliocache.FoliocacheError, match="closed"):
        pool.mapping("k", 10)


def test_an_empty_object(pool):
    mapping = pool.mapping("empty", 0)
    assert len(mapping) == 0 and mapping.read(0, 10) == b"" and mapping.readinto(0, bytearray(3)) == 0
    assert list(mapping.pieces()) == [] and mapping.is_cached() and mapping[:] == b""
    with pytest.raises(IndexError):
        mapping.lease(0)


@pytest.mark.parametrize("answer", [b"", b"short", b"x" * 20_000, "text", None, 5, [1, 2]])
def test_wrong_answers_of_a_source_are_clear_errors_and_leave_nothing(pool, answer):
    mapping = pool.mapping("k", 10_000, "v", lambda offset, length: answer)
    for _ in range(2):
        with pytest.raises(foliocache.SourceError, match="the source of 'k'"):
            mapping.lease(0)
    assert pool.stat().cached_bytes == 0 and pool.mappings() == []


@pytest.mark.parametrize("count", [0, 5, 10_001])
def test_readinto_with_a_wrong_count(pool, count):
    with pytest.raises(foliocache.SourceError, match=f"{count} bytes"):
        pool.mapping("k", 10_000, "v", readinto=lambda offset, buffer: count).lease(0)


def test_a_source_that_keeps_its_buffer_is_an_error(pool):
    kept = []

    def readinto(offset, buffer):
        kept.append(np.frombuffer(buffer, np.uint8))
        return len(buffer)

    mapping = pool.mapping("k", 10_000, readinto=readinto)
    with pytest.raises(foliocache.SourceError, match="kept the buffer"):
        mapping.lease(0)
    assert pool.mappings() == [] and pins(pool) == 1, "a page that can still be written to is not reused"
    kept.clear()
    assert pool.stat().cached_bytes == 0


def test_a_failing_source_raises_for_its_caller_and_is_asked_again(pool, source):
    trouble = [OSError("the network is down"), KeyboardInterrupt()]

    def read(offset, length):
        if trouble:
            raise trouble.pop(0)
        return source.read(offset, length)

    mapping = pool.mapping("k", len(source.content), "v", read)
    with pytest.raises(OSError, match="network is down"):
        mapping.lease(0)
    with pytest.raises(KeyboardInterrupt):
        mapping.lease(0)
    assert pool.stat().pages_by_state.file == 0
    assert bytes(mapping.lease(0, 5000)) == source.content[:5000]
    assert pool.stat().counters.errors == 2


def test_threads_that_miss_at_once_read_once(pool, make_source):
    source = make_source(10_000)
    started, go = threading.Event(), threading.Event()

    def read(offset, length):
        started.set()
        assert go.wait(60)
        return source.read(offset, length)

    mapping = pool.mapping("k", 10_000, "v", read)
    results = []
    threads = [threading.Thread(target=lambda: results.append(bytes(mapping.lease(0)))) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert started.wait(60)
    while pool.stat().counters.waits < 7:
        threading.Event().wait(0.001)
    go.set()
    for thread in threads:
        thread.join(60)
    assert results == [source.content] * 8 and len(source.calls) == 1


def _read_all(name, size, barrier, log):
    def read(offset, length):
        log.put((offset, length))
        return bytes(length)

    mapping = foliocache.attach(name).mapping("k", size, "v", read)
    barrier.wait(60)
    for offset in offsets(mapping):
        with mapping.lease(offset) as lease:
            assert not any(memoryview(lease))


@pytest.mark.parametrize("context", [SPAWN, FORK], ids=["spawn", "fork"])
def test_processes_that_miss_at_once_read_once(pool, context):
    size = 1_000_000
    barrier, log = context.Barrier(4), context.Queue()
    children = [context.Process(target=_read_all, args=(pool.name, size, barrier, log)) for _ in range(4)]
    for child in children:
        child.start()
    fetched = 0
    while fetched < size:
        fetched += log.get(timeout=60)[1]
    for child in children:
        child.join(60)
    assert {child.exitcode for child in children} == {0}
    assert fetched == size and log.empty()


def test_full_of_pinned_pages_reads_privately(pool, make_source):
    source = make_source(8 << 20, seed=3)
    mapping = pool.mapping("big", 8 << 20, "v", source.read)
    leases = list(mapping.pieces())
    assert b"".join(leases) == source.content
    assert not leases[-1].cached and leases[0].cached
    bypassed = sum(not lease.cached for lease in leases)
    assert pool.stat().counters.bypasses == bypassed > 0
    leases.clear()
    assert pins(pool) == 0
    assert mapping.lease(mapping.size - 1).cached


def test_an_object_larger_than_the_pool(pool, make_source):
    source = make_source(20 << 20)
    mapping = pool.mapping("big", 20 << 20, "v", source.read)
    assert mapping.read(0, mapping.size) == source.content
    assert pool.stat().counters.evictions > 0
    assert pool.audit() == []


def test_small_objects_share_the_pool_page_by_page(pool, make_source):
    sources = [make_source(1000 + i, seed=i) for i in range(400)]
    for i, source in enumerate(sources):
        assert pool.mapping(f"small {i}", len(source.content), "v", source.read).read(0, 2000) == source.content
    assert pool.stat().counters.evictions > 0
    assert len(pool.mappings()) == pool.stat().mappings <= 256


def test_units_follow_the_object():
    page, pool = 16 << 10, 4 << 30
    assert [page << _order_for(size, page, pool) for size in (0, 1000, 100_000, 1 << 19)] == [page] * 4
    assert page << _order_for(1 << 20, page, pool) == 32 << 10
    assert [page << _order_for(size, page, pool) for size in (2 << 20, 10 << 20, 1 << 40)] == [64 << 10] * 3
    assert page << _order_for(1 << 40, page, 2 << 20) == 32 << 10
    assert 65536 << _order_for(1 << 40, 65536, 4 << 20) == 65536


def test_folios_have_up_to_sixteen_units_and_a_small_part_of_the_pool():
    assert _span_for(16 << 10, 16 << 10, 4 << 30) == _span_for(64 << 10, 16 << 10, 4 << 30) == 4
    assert _span_for(64 << 10, 16 << 10, 16 << 20) == 2
    assert _span_for(16 << 10, 16 << 10, 1 << 20) == _span_for(2 << 20, 2 << 20, 4 << 30) == 0


def test_the_tail_of_a_large_object_takes_no_more_pages_than_it_needs(pool_name, make_source):
    pool = foliocache.open(pool_name, size="64MiB")
    source = make_source((20 << 20) + 1)
    mapping = pool.mapping("k", len(source.content), "v", source.read)
    assert mapping.unit_size == 64 << 10
    assert bytes(mapping.lease(mapping.size - 1)) == source.content[-1:]
    assert pool.stat().pages_by_state.file == 1


def test_reads_of_any_size_leave_folios_of_any_size(pool_name, make_source):
    """What is there is taken piece by piece, and what is between is filled: the bytes are right, and each is fetched once."""
    pool = foliocache.open(pool_name, size="64MiB")
    source = make_source((4 << 20) + 5)
    content = source.content
    mapping = pool.mapping("k", len(content), "v", source.read)
    size = mapping.unit_size
    for first, count in ((21, 1), (8, 8), (18, 2), (3, 40), (64, 1), (0, 65)):
        start, length = first * size + 3, count * size - 7
        assert mapping.read_bytes(start, length) == content[start : start + length]
        last = max(length - size - 5, 0)
        with mapping.window(start, length) as window, window.lease(last) as lease:
            assert bytes(window) == content[start : start + length]
            assert bytes(lease) == content[start + last : start + last + len(lease)]
            assert bytes(next(mapping.pieces(start + last, length - last))) == bytes(lease)
    assert source.bytes_read == len(content)
    (cached,) = pool.mappings()
    assert cached.cached_folios < cached.units and cached.cached_bytes == mapping.size
    pieces = list(mapping.pieces())
    assert len(pieces) == cached.cached_folios and b"".join(pieces) == content
    assert [bytes(lease) for lease in units(mapping)] == [content[offset : offset + size] for offset in offsets(mapping)]
    assert bytes(mapping.read(8 * size, 8 * size)) == content[8 * size : 16 * size]


# Pieces, and the options of a mapping.


def test_pieces_are_the_range_in_order_and_the_iterator_holds_none(pool, source):
    mapping = pool.mapping("k", len(source.content), "v", source.read)
    for offset, length in ((0, None), (5, 100), (16_000, 1_000), (123_456, 300_000), (499_999, 100), (500_000, 5), (0, 0)):
        end = None if length is None else offset + length
        found = [bytes(lease) for lease in mapping.pieces(offset, length)]
        assert b"".join(found) == source.content[offset:end] and all(found)
        assert pins(pool) == 0
    pieces = mapping.pieces(100, 200_000)
    first, second = next(pieces), next(pieces)
    assert len(first) != len(second) and pins(pool) == 2
    first.release()
    mapping.invalidate()
    del pieces
    assert pins(pool) == 1 and bytes(second) == source.content[100 + len(first) :][: len(second)]


def test_pieces_go_on_after_an_error_of_the_source(pool, source):
    trouble = []

    def read(offset, length):
        if trouble:
            raise trouble.pop()
        return source.read(offset, length)

    mapping = pool.mapping("k", len(source.content), "v", read, folio_size="16KiB", readahead=0)
    pieces, found = mapping.pieces(), []
    for lease in pieces:
        found.append(bytes(lease))
        mapping.invalidate()
        trouble.append(OSError("the network is down"))
        with pytest.raises(OSError, match="network is down"):
            next(pieces)
        if len(found) == 3:
            break
    found += [bytes(lease) for lease in pieces]
    assert b"".join(found) == source.content


def test_pieces_do_not_fill_the_pool_with_what_they_have_not_come_to(pool_name):
    """A range of four pools: what is asked for ahead of a slow consumer is a small part of one."""
    pool = foliocache.open(pool_name, size="16MiB")
    fetched = []

    def read(offset, length):
        fetched.append(length)
        return bytes(length)

    mapping = pool.mapping("k", 64 << 20, "v", read, concurrent=True)
    next(mapping.pieces(64 << 10, 60 << 20)).release()
    mapping.read_bytes(48 << 20, 1)  # its request comes behind those
    pool.close()
    assert sum(fetched) <= 4 << 20


@pytest.mark.parametrize("concurrent", [False, True])
def test_a_folio_size_that_is_fixed_is_that_of_all_folios(pool_name, make_source, concurrent):
    pool = foliocache.open(pool_name, size="64MiB")
    source = make_source(5 << 20)
    size, content = 256 << 10, source.content
    mapping = pool.mapping("k", len(content), "v", source.read, concurrent=concurrent, folio_size="256KiB", readahead=0)
    for offset in (size + 100, 5 * size - 5, 10 * size, 700_000):
        with mapping.lease(offset, 5) as lease:
            assert bytes(lease) == content[offset : offset + 5]
    assert sorted(source.calls) == [(at, size) for at in (size, 2 * size, 4 * size, 10 * size)], "whole folios, and no others"
    other = pool.mapping("k", len(content), "v", source.read)
    assert len(other.lease(13 * size + 65536, 5)) == 5 and len(other.lease(13 * size + 65536)) == 65536, "by what is read"
    assert mapping.read_bytes(0, len(content)) == content and source.bytes_read == len(content)
    lengths = [len(lease) for lease in mapping.pieces()]
    assert lengths.count(size) == 19 and sum(lengths) == len(content), "around the small one there are smaller ones"
    again = pickle.loads(pickle.dumps(pool.mapping("k", len(content), "v", folio_size=size, readahead="1MiB")))
    assert (again.folio_size, again.readahead) == (size, 1 << 20)


def test_a_folio_size_below_the_unit_makes_another_object(pool_name, make_source):
    pool = foliocache.open(pool_name, size="64MiB")
    source = make_source(4 << 20)
    fine = pool.mapping("k", 4 << 20, "v", source.read, folio_size="16KiB")
    usual = pool.mapping("k", 4 << 20, "v", source.read)
    assert (fine.unit_size, usual.unit_size) == (16 << 10, 64 << 10)
    assert fine.read_bytes(1 << 20, 100_000) == usual.read_bytes(1 << 20, 100_000) == source.content[1 << 20 :][:100_000]
    assert {len(lease) for lease in fine.pieces(1 << 20, 65536)} == {16 << 10}
    assert sorted(found.unit_size for found in pool.mappings()) == [16 << 10, 64 << 10]
    assert pool.forget("k") == 2


def test_options_that_make_no_sense_are_refused(pool):
    for folio_size in (0, -1, 3 * 16384, "24KiB", 4096, "2MiB", "1TiB", "big", 1.5, True, b"16KiB"):
        with pytest.raises(ValueError, match="folio_size"):
            pool.mapping("k", 1 << 20, folio_size=folio_size)
    for readahead in (-1, "far", 1.5, True, False, 0.0, b""):
        with pytest.raises(ValueError, match="readahead"):
            pool.mapping("k", 1 << 20, readahead=readahead)
    assert pool.mapping("k", 10, folio_size=np.int64(16384), readahead=np.int64(0)).readahead == 0


def test_the_first_folio_of_a_large_read_is_as_large_as_the_others(pool_name, make_source):
    """Of a window that is read ahead, too: it is not begun with the one unit that was asked for."""
    pool = foliocache.open(pool_name, size="64MiB")
    source = make_source(8 << 20)
    mapping = pool.mapping("k", 8 << 20, "v", source.read)
    with mapping.lease(0) as lease:
        assert len(lease) == 4 * mapping.unit_size
    for start in (2 << 20, (4 << 20) + 65536):
        mapping.read_bytes(start, 1 << 20)
    assert [len(lease) for lease in mapping.pieces(2 << 20, 1 << 20)] == [1 << 20]


def test_a_header_that_is_read_again_and_again_is_not_read_on(pool_name):
    """It is in a folio that has the mark of a window, for that folio is as large as the window."""
    pool = foliocache.open(pool_name, size="64MiB")
    fetched, last = [], threading.Event()

    def read(offset, length):
        fetched.append(length)
        if offset == 100 * 65536:
            last.set()
        return bytes(length)

    mapping = pool.mapping("k", 32 << 20, "v", read, concurrent=True)
    for _ in range(5):
        mapping.read(0, 100).release()
    mapping.filler.read_runs(mapping, [(100, 101)])  # comes behind anything that was asked for
    assert last.wait(60)
    pool.close()
    assert sum(fetched) == 5 * mapping.unit_size


def test_a_reader_of_folios_one_after_the_other_misses_once(pool_name):
    """It never hits the folio that it has missed; what that folio has marked is read nevertheless."""
    pool = foliocache.open(pool_name, size="64MiB")
    mapping = pool.mapping("k", 32 << 20, "v", lambda offset, length: bytes(length), concurrent=True)
    offset, deadline = 0, time.monotonic() + 60
    while offset < len(mapping):
        while offset and not mapping.is_cached(offset, 1):
            assert time.monotonic() < deadline, "nothing reads it"
            threading.Event().wait(0.001)
        with mapping.lease(offset) as lease:
            offset += len(lease)
    assert pool.stat().counters.misses == 1


@pytest.mark.parametrize(("grain", "most"), [(65536, 1.25), (1, 2.5)])
def test_random_reads_of_a_cold_object_fetch_little_more_than_they_ask_for(pool_name, grain, most):
    """256 reads of 64 KiB: each lies in one unit, or at any offset in two."""
    pool = foliocache.open(pool_name, size="64MiB")
    fetched = []

    def readinto(offset, buffer):
        fetched.append(len(buffer))
        return len(buffer)

    mapping = pool.mapping("k", 256 << 20, "v", readinto=readinto, concurrent=True)
    rng = random.Random(5)
    places = [rng.randrange(4096 * 65536 // grain - 65536 // grain + 1) * grain for _ in range(256)]
    for place in places:
        mapping.read(place, 65536).release()
    pool.close()
    assert 65536 * len({place // 65536 for place in places}) <= sum(fetched) <= most * 65536 * 256


def test_versions_are_different_objects(pool, make_source):
    old, new = make_source(5000, seed=1), make_source(5000, seed=2)
    assert pool.mapping("k", 5000, "1", old.read).read(0, 5000) == old.content
    assert pool.mapping("k", 5000, "2", new.read).read(0, 5000) == new.content
    assert pool.mapping("k", 5000, "1").read(0, 5000) == old.content
    assert sorted((m.key, m.version) for m in pool.mappings()) == [("k", "1"), ("k", "2")]
    assert pool.forget("k") == 2 and pool.mappings() == []


def test_invalidate_spares_leases_that_are_out(pool, source):
    mapping = pool.mapping("k", len(source.content), "v", source.read)
    lease = mapping.lease(16384)
    mapping.invalidate()
    assert pool.mappings() == [] and bytes(lease) == source.content[16384:32768]
    assert not mapping.is_cached(16384, 1)
    again = mapping.lease(16384)
    assert bytes(again) == bytes(lease) and pins(pool) == 2


def test_long_names_are_cut_for_people_but_not_for_identity(pool, make_source):
    one, two = make_source(100, seed=1), make_source(100, seed=2)
    key = "schlüssel/" * 200
    assert pool.mapping(key + "1", 100, "", one.read).read(0, 100) == one.content
    assert pool.mapping(key + "2", 100, "", two.read).read(0, 100) == two.content
    assert all(key.startswith(m.key[:300]) for m in pool.mappings())
    assert pool.mapping(key + "2", 100, "version " * 100, two.read).read(0, 100) == two.content
    assert pool.forget(key + "2") == 2
    assert pool.forget(key + "1") == 1 and pool.mappings() == []


def test_sequential_reads_are_read_ahead_and_random_ones_are_not(pool_name, make_source):
    pool = foliocache.open(pool_name, size="64MiB")
    source = make_source(4 << 20)
    mapping = pool.mapping("sequential", 4 << 20, "v", source.read)
    for offset in offsets(mapping):
        mapping.lease(offset)
    lengths = [length for _, length in source.calls]
    assert len(source.calls) < len(offsets(mapping)) / 3
    assert lengths[:-1] == sorted(lengths[:-1]), "the window grows"
    assert source.bytes_read == 4 << 20
    scattered = make_source(4 << 20)
    mapping = pool.mapping("random", 4 << 20, "v", scattered.read)
    for index in (17, 3, 30, 9, 25, 22):
        unit(mapping, index)
    assert [length for _, length in scattered.calls] == [mapping.unit_size] * 6


def test_a_concurrent_source_is_read_ahead_in_the_background(pool_name, make_source):
    pool = foliocache.open(pool_name, size="64MiB")
    source = make_source(8 << 20)
    mapping = pool.mapping("k", 8 << 20, "v", source.read, concurrent=True)
    for offset in offsets(mapping):
        assert bytes(mapping.lease(offset, mapping.unit_size)) == source.content[offset : offset + mapping.unit_size]
    pool.close()
    assert foliocache.open(pool_name).stat().counters.readahead > 0
    assert source.bytes_read == 8 << 20


def test_close_waits_for_what_is_read_ahead_as_long_as_for_any_fill(pool_name):
    pool = foliocache.open(pool_name, size="4MiB", fill_timeout=0.5)
    begun, end = threading.Event(), threading.Event()

    def read(offset, length):
        begun.set()
        end.wait(60)
        return bytes(length)

    mapping = pool.mapping("k", 100_000, "v", read, concurrent=True)
    mapping.filler.read_runs(mapping, [(1, 2)])
    assert begun.wait(60)
    before = time.monotonic()
    pool.close()
    assert 0.4 < time.monotonic() - before < 30
    end.set()


def test_pickling(pool, source):
    pool.mapping("k", len(source.content), "v", source.read).lease(0)
    assert pickle.loads(pickle.dumps(pool)) is pool
    mapping = pickle.loads(pickle.dumps(pool.mapping("k", len(source.content), "v")))
    assert bytes(mapping.lease(0, 5000)) == source.content[:5000]


def _use_inherited(lease, mapping, said):
    try:
        memoryview(lease)
    except foliocache.LeaseError as error:
        said.put(str(error))
    lease.release()
    said.put(bytes(mapping.lease(0)))
    said.put(mapping.attachment.number)


def test_a_forked_child_owns_nothing_of_its_parents(pool, source):
    mapping = pool.mapping("k", len(source.content), "v", source.read)
    lease = mapping.lease(0)
    said = FORK.Queue()
    child = FORK.Process(target=_use_inherited, args=(lease, mapping, said))
    child.start()
    assert "inherited by fork" in said.get(timeout=60)
    assert said.get(timeout=60) == bytes(lease)
    assert said.get(timeout=60) != mapping.attachment.number
    child.join(60)
    assert child.exitcode == 0 and pins(pool) == 1
    assert len(source.calls) == 1


def test_a_fork_within_a_source_leaves_the_fill_to_the_parent(pool, make_source):
    source = make_source(10_000)
    reader, writer = os.pipe()

    def fork_and_return(offset, length):
        """Fork in the source; the child returns into the fill that belongs to its parent."""
        child = os.fork()
        return source.read(offset, length) if child == 0 else (os.waitpid(child, 0), source.read(offset, length))[1]

    mapping = pool.mapping("k", 10_000, "v", fork_and_return)
    parent = os.getpid()
    try:
        content = bytes(mapping.lease(0))
    except foliocache.LeaseError as error:
        os.write(writer, f"child: {error}".encode())
        os._exit(0)
    finally:
        if os.getpid() != parent:
            os._exit(1)
    assert content == source.content
    assert b"forked while it read from the source" in os.read(reader, 1000)
    os.close(reader)
    os.close(writer)


def test_a_signal_interrupts_a_wait_for_another_filler(pool, make_source):
    started, go = threading.Event(), threading.Event()

    def slow(offset, length):
        started.set()
        assert go.wait(60)
        return bytes(length)

    filler = threading.Thread(target=lambda: pool.mapping("k", 10_000, "v", slow).lease(0))
    filler.start()
    assert started.wait(60)

    def interrupt():
        while pool.stat().counters.waits < 1:
            threading.Event().wait(0.001)
        os.kill(os.getpid(), signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    with pytest.raises(KeyboardInterrupt):
        pool.mapping("k", 10_000, "v", slow).lease(0)
    go.set()
    filler.join(60)
    interrupter.join(60)
    assert bytes(pool.mapping("k", 10_000, "v").lease(0)) == bytes(10_000)


def test_stat_adds_up(pool, source):
    mapping = pool.mapping("k", len(source.content), "v", source.read)
    mapping.read(0, mapping.size)
    lease = mapping.lease(0)
    stat = pool.stat()
    assert sum(stat.pages_by_state.to_dict().values()) == stat.pages
    assert stat.pins == 1 and stat.mappings == 1 and stat.counters.fill_bytes == mapping.size
    assert [c.pid for c in stat.clients] == [os.getpid()]
    assert pool.mappings()[0].pins == 1 and pool.mappings()[0].cached_bytes == mapping.size
    del lease


def test_after_close_everything_raises_and_what_is_out_stays(pool_name, source):
    pool = foliocache.open(pool_name, size="4MiB")
    mapping = pool.mapping("k", len(source.content), "v", source.read)
    lease, window = mapping.lease(0), mapping.window(0, 40_000)
    view, pieces = mapping.read(20_000, 10), mapping.pieces()
    pool.close()
    pool.close()
    assert pool.closed and repr(pool) and pool.name == pool_name
    uses = [
        pool.stat, pool.audit, pool.repair, pool.mappings, pool.__enter__,
        lambda: pool.forget("k"), lambda: pool.mapping("k", 10), lambda: mapping.lease(0), lambda: mapping.lease(5, 5),
        lambda: mapping.read(0, 10), lambda: mapping.read_bytes(0, 100_000), lambda: mapping.readinto(0, bytearray(10)),
        lambda: mapping.window(0, 10), mapping.invalidate, lambda: mapping.is_cached(0),
        mapping.pieces, lambda: next(pieces),
        lambda: mapping.read(0, 0), lambda: mapping.read_bytes(1 << 40, 1), lambda: mapping.readinto(0, bytearray()),
        lambda: mapping.window(0, 0), lambda: mapping.lease(-1), lambda: len(mapping), lambda: mapping[:0],
    ]  # fmt: skip
    for use in uses:
        with pytest.raises(foliocache.FoliocacheError, match="has been closed in this process; open it again"):
            use()
    again = foliocache.open(pool_name)
    assert again is not pool and len(again.stat().clients) == 2
    assert bytes(lease) == source.content[: len(lease)] and bytes(window) == source.content[:40_000]
    assert bytes(view) == source.content[20_000:20_010]
    lease.release()
    view.release()
    window.close()
    uses.clear()
    use = pool = mapping = lease = view = window = pieces = None
    gc.collect()
    assert len(again.stat().clients) == 1 and again.audit() == []


def test_a_child_inherits_that_it_is_closed(pool_name, source):
    pool = foliocache.open(pool_name, size="4MiB")
    mapping = pool.mapping("k", len(source.content), "v", source.read)
    pool.close()
    child = os.fork()
    if child == 0:
        try:
            mapping.lease(0)
        except foliocache.FoliocacheError:
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def owners(pool):
    attachment = pool._attachment
    slot = ClientSlot(attachment.segment)
    file = open_file("/dev/null", os.O_RDONLY)
    return [attachment, attachment.segment, attachment.segment.memory, slot, Reaping(slot), file]


@pytest.mark.parametrize("number", range(6))
def test_what_owns_something_is_not_copied_or_pickled(pool, number):
    owner = owners(pool)[number]
    for copied in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="cannot be copied or pickled"):
            copied(owner)
    with contextlib.suppress(TypeError):
        owner.__init__(owner)  # again, and with something that it is not for


def test_what_is_half_made_does_not_crash():
    for kind in (Attachment, ClientSlot, Reaping, Descriptor, Memory, Segment):
        try:
            half = kind.__new__(kind)
        except TypeError:
            continue
        for name in dir(kind):
            if name.startswith("__") and name not in ("__enter__", "__exit__", "__repr__"):
                continue
            with contextlib.suppress(Exception):
                method = getattr(half, name)
                for arguments in ((), (0,), (b"8 bytes.",), (0, 1)):
                    with contextlib.suppress(Exception):
                        method(*arguments)
        del half
    gc.collect()


def test_an_attachment_that_nothing_was_attached_to_says_so():
    with pytest.raises(TypeError, match=r"foliocache\.open"):
        Attachment.__new__(Attachment).join()


def test_an_attachment_is_not_initialized_twice(pool):
    with pytest.raises(TypeError, match="twice"):
        pool._attachment.__init__(pool._attachment.segment)
    assert pool.audit() == []


def test_forget_takes_a_string(pool):
    with pytest.raises(ValueError, match="key must be a string, not 5"):
        pool.forget(5)
