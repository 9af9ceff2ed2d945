"""backing: what the kernel is asked for, in which pieces, and which marks are set; in the interpreted world."""

import errno

import pytest
from calls import Calls
from world import Segment, interpreted

CHUNK, PIECE = 16, 256  # pages of 4 KiB
FULL = errno.ENOSPC


@pytest.fixture
def segment():
    """1024 pages, none of which has memory."""
    segment = Segment(interpreted(), 1024)
    segment.backing.unmark(0, 10)
    return segment


@pytest.fixture
def calls(segment, monkeypatch):
    return Calls(segment, monkeypatch)


def marked(segment):
    """The chunks that have memory."""
    found = [segment.backing.is_marked(pfn) for pfn in range(segment.pages)]
    assert found == [found[pfn // CHUNK * CHUNK] for pfn in range(segment.pages)]
    assert found == [segment.backing.is_set(segment.backing.mark_of(pfn)) for pfn in range(segment.pages)]
    return [n for n in range(segment.pages // CHUNK) if found[n * CHUNK]]


def asked(segment, calls):
    """(page, pages) of each call."""
    data = segment.shape["data"]
    return [((begin - data) / 4096, length / 4096) for *_, (begin, length), _ in calls.made]


@pytest.mark.parametrize(("size", "order"), [(4096, 4), (1 << 15, 1), (1 << 16, 0), (1 << 17, 0)])
def test_a_chunk_is_a_page_or_more(size, order):
    assert Segment(interpreted(), 8, size).backing.chunk_order() == order


@pytest.mark.parametrize(
    ("pfn", "order", "pieces"),
    [
        (0, 4, [(0, 16)]), (35, 0, [(32, 16)]), (47, 0, [(32, 16)]), (48, 4, [(48, 16)]), (512, 6, [(512, 64)]),
        (0, 10, [(n, PIECE) for n in range(0, 1024, PIECE)]), (512, 9, [(512, PIECE), (768, PIECE)]),
    ],
)  # fmt: skip
def test_whole_chunks_get_memory_and_marks(segment, calls, pfn, order, pieces):
    assert not segment.backing.is_backed(pfn, order)
    calls.replace("atomics.fallocate", [0] * 9)
    assert segment.backing.back(pfn, order) is True
    assert asked(segment, calls) == pieces and segment.backing.is_backed(pfn, order)
    assert marked(segment) == [n for first, pages in pieces for n in range(first // CHUNK, (first + pages) // CHUNK)]
    calls.replace("atomics.punch", [0] * 9)
    calls.made.clear()
    block, whole = pfn // CHUNK * CHUNK, max(order, 4)
    assert segment.backing.punch(block, whole) is True and asked(segment, calls) == pieces
    segment.backing.unmark(block, whole)
    assert marked(segment) == []


@pytest.mark.parametrize(("pfn", "order"), [(48, 4), (512, 6), (32, 5), (512, 9), (0, 10)])
def test_a_block_gets_its_marks_again_without_a_question(segment, calls, pfn, order):
    calls.replace("atomics.fallocate", [])
    segment.backing.mark_again(pfn, order)
    assert marked(segment) == list(range(pfn // CHUNK, (pfn + (1 << order)) // CHUNK)) and calls.made == []


@pytest.mark.parametrize("last", [0, 5, 63])
def test_a_block_is_backed_if_all_of_its_chunks_are(segment, last):
    for n in range(64):
        if n != last:
            segment.backing.back(n * CHUNK, 4)
    assert [order for order in range(4, 11) if segment.backing.is_backed(0, order)] == [
        o for o in range(4, 11) if 1 << o - 4 <= last
    ]


def test_what_there_is_less_of_gets_its_mark(segment, calls):
    """The kernel has 80 pages more."""
    calls.replace("atomics.fallocate", [FULL, FULL, 0, FULL, FULL, FULL, 0, FULL, FULL, FULL, FULL, FULL, FULL])
    assert segment.backing.back(0, 9) is False
    assert asked(segment, calls) == [
        (0, 256), (0, 128), (0, 64), (64, 256), (64, 128), (64, 64), (64, 32), (96, 256), (96, 128), (96, 64), (96, 32),
        (96, 16),
    ]  # fmt: skip
    assert marked(segment) == list(range(6))


def test_a_refusal_ends_taking_memory_away(segment, calls):
    calls.replace("atomics.punch", [0, 5, 0])
    assert segment.backing.punch(0, 10) is False and len(calls.made) == 2


def test_only_what_has_no_mark_is_emptied(segment, calls):
    for n in (0, 2, 3):
        segment.backing.back(n * CHUNK, 4)
    calls.replace("atomics.punch", [0] * 99)
    segment.backing.empty(0, 6)
    segment.backing.empty(64, 3)
    assert asked(segment, calls) == [(16, 16)]
    calls.made.clear()
    segment.backing.empty(16, 4)
    segment.backing.empty(32, 4)
    assert asked(segment, calls) == [(16, 16)]


def test_after_a_signal_the_pieces_are_smaller(segment, calls):
    interrupted = segment.layout.INTERRUPTED
    calls.replace("atomics.fallocate", [interrupted] * 3 + [0] + [interrupted] * 3 + [0] * 9)
    assert segment.backing.reserve(64, (1 << 17) + (1 << 16) + 5) is True
    sizes = [args for *_, args, _ in calls.made]
    length, end = (1 << 17) + (1 << 16) + 5, 64 + (1 << 17) + (1 << 16) + 5
    assert sizes == [
        (64, length), (64, length), (64, length), (64, 1 << 17), (64 + (1 << 17), (1 << 16) + 5),
        (64 + (1 << 17), 1 << 16), (64 + (1 << 17), 1 << 16), (64 + (1 << 17), 1 << 16), (end - 5, 5),
    ]  # fmt: skip


@pytest.mark.parametrize(("answers", "given"), [([0, 0, 0], True), ([0, FULL], False), ([FULL], False)])
def test_memory_is_reserved_piece_by_piece(segment, calls, answers, given):
    calls.replace("atomics.fallocate", answers)
    assert segment.backing.reserve(4096, (2 << 20) + 1) is given
    assert [args for *_, args, _ in calls.made] == [(4096, 1 << 20), (4096 + (1 << 20), 1 << 20), (4096 + (2 << 20), 1)][
        : len(answers)
    ]


def test_nothing_is_reserved_for_nothing(segment, calls):
    calls.replace("atomics.fallocate", [FULL])
    assert segment.backing.reserve(4096, 0) is True and calls.made == []


def test_the_limit_is_no_more_than_there_is(segment):
    for limit, found in ((0, 0), (7, 7), (1024, 1024), (1025, 1024), (0xFFFFFFFF, 1024)):
        segment.write(segment.layout.PAGES_LIMIT, limit)
        assert segment.backing.limit() == found


@pytest.mark.parametrize("n", [0, 1, 3])
def test_a_slot_gets_its_own_memory(segment, calls, n):
    segment.write(segment.layout.SLOTS_BACKED, n)
    calls.replace("atomics.fallocate", [FULL, 0])
    assert segment.backing.back_slot() is False and segment.read(segment.layout.SLOTS_BACKED) == n
    assert segment.backing.back_slot() is True and segment.read(segment.layout.SLOTS_BACKED) == n + 1
    size = segment.layout.CLIENT_SIZE
    assert [args for *_, args, _ in calls.made] == [(segment.client.slot(n), size)] * 2


def test_there_is_no_slot_behind_the_last(segment, calls):
    segment.write(segment.layout.SLOTS_BACKED, 4)
    calls.replace("atomics.fallocate", [0])
    assert segment.backing.back_slot() is False and calls.made == []


def test_marks_are_words_of_32(segment):
    start = segment.shape["backed"]
    marks = [segment.backing.mark_of(n * CHUNK) for n in (0, 1, 31, 32, 63)]
    assert marks == [(start << 5) + n for n in (0, 1, 31)] + [(start + 4 << 5) + n for n in (0, 31)]
