"""Memory for many results at once (``pool.results``)."""

import copy
import mmap
import os
import re
import sysconfig
import threading

import fresh
import pytest

import foliocache
from foliocache.pool import results
from foliocache.pool.results import Results

MIB = 1 << 20
SIZE = 6 * MIB + 100


PATTERN = bytes(range(251)) * (SIZE // 251 + 2)


def content(offset, length):
    return PATTERN[offset % 251 : offset % 251 + length]


@pytest.fixture
def mapping(pool_name):
    with foliocache.open(pool_name, size="16MiB") as pool:
        yield pool.mapping("k", SIZE, "1", read=content, concurrent=True)
        assert pool.audit() == []


@pytest.mark.parametrize("length", [1 << 16, MIB, 3 * MIB, 100])
def test_each_result_is_what_a_read_returns(mapping, length):
    ranges = [(at, min(length, SIZE - at)) for at in range(0, SIZE, length)][:2000]
    made = Results([(mapping, *one) for one in ranges])
    for number, (offset, wanted) in reversed(list(enumerate(ranges))):
        assert made.read(number, mapping, offset, wanted) == content(offset, wanted)
        assert made.read(number, mapping, offset, wanted) == content(offset, wanted), "also for the second time"


def test_other_ranges_than_those_that_were_announced(mapping):
    made = Results([(mapping, 0, 5 * MIB), (None, 0, 0), (mapping, SIZE - 50, 100), (mapping, 0, 0)])
    assert made.read(0, mapping, 10, 2000) == content(10, 2000)
    assert made.read(1, mapping, 10, 0) == b"" and made.read(1, mapping, 10, 7) == content(10, 7)
    assert made.read(2, mapping, SIZE - 50, 100) == content(SIZE - 50, 50), "cut off at the end of the object"
    assert made.read(3, mapping, SIZE, 100) == b""
    with pytest.raises(IndexError):
        made.read(4, mapping, 0, 1)
    with pytest.raises(TypeError):
        made.read(0, None, 0, 1)
    with pytest.raises(TypeError, match="cannot be copied"):
        copy.copy(made)


def test_a_read_that_fails(pool_name):
    def fails(offset, length):
        raise OSError("the line is dead")

    with foliocache.open(pool_name, size="16MiB") as pool:
        mapping = pool.mapping("k", SIZE, "1", read=fails)
        made = Results([(mapping, 0, 4 * MIB)])
        for _ in range(2):
            with pytest.raises(OSError, match="dead"):
                made.read(0, mapping, 0, 4 * MIB)


def test_results_of_several_threads(mapping):
    ranges = [(at, min(MIB // 4, SIZE - at)) for at in range(0, SIZE, MIB // 4)]
    made, found = Results([(mapping, *one) for one in ranges]), [b""] * len(ranges)

    def read(first):
        for number in range(first, len(ranges), 4):
            found[number] = made.read(number, mapping, *ranges[number])

    threads = [threading.Thread(target=read, args=(first,)) for first in range(4)]
    for each in threads:
        each.start()
    for each in threads:
        each.join(60)
    assert found == [content(*one) for one in ranges]


def huge_bytes():
    """The bytes of this process's own memory that are in huge pages."""
    with open("/proc/self/smaps_rollup") as file:
        return int(re.search(r"AnonHugePages: +(\d+) kB", file.read())[1]) << 10


def makes_huge_pages():
    """True if the kernel makes huge pages of memory that has small ones."""
    with mmap.mmap(-1, 4 * MIB, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory[::MIB] = bytes(4)  # a range without any page is refused
        try:
            memory.madvise(25, 0, 4 * MIB)
        except OSError:
            return False
        return True


@pytest.mark.skipif(bool(sysconfig.get_config_var("Py_GIL_DISABLED")), reason="this Python's allocator lays results apart")
@pytest.mark.skipif(not makes_huge_pages(), reason="this kernel makes no huge pages (MADV_COLLAPSE)")
@fresh.process  # malloc has nothing to use again, so all of it is new memory
def test_memory_of_long_results_is_huge_unless_the_machine_wants_none():
    with foliocache.open(f"test-{os.getpid()}", size="16MiB") as pool:
        try:
            memory_is_huge(pool.mapping("k", SIZE, "1", read=content))
        finally:
            foliocache.remove(pool.name)


def of_lengths(mapping, lengths):
    made = Results([(mapping, 0, length) for length in lengths])
    made.make_huge()
    return made


def memory_is_huge(mapping):
    results._allowed = False
    before = huge_bytes()
    small = of_lengths(mapping, [MIB] * 32)
    assert huge_bytes() <= before
    results._allowed = True
    large = of_lengths(mapping, [MIB] * 32)
    assert huge_bytes() >= before + 16 * MIB
    before = huge_bytes()
    mixed = of_lengths(mapping, [5 * MIB, 5 * MIB, *[MIB] * 16])
    assert huge_bytes() >= before + 8 * MIB, "also beside longer ones, whose memory comes with their first write"
    del small, large, mixed


def test_the_setting_is_read_once(mapping, monkeypatch, tmp_path):
    for text, allowed in (("always madvise [never]\n", False), ("always [madvise] never\n", True), (None, False)):
        place = tmp_path / "enabled"
        place.unlink(missing_ok=True)
        if text is not None:
            place.write_text(text)
        monkeypatch.setattr(results, "_SETTING", str(place))
        monkeypatch.setattr(results, "_allowed", None)
        of_lengths(mapping, [4 * MIB])
        assert results._allowed is allowed
