"""page_type: type and order in one word."""

import pytest


@pytest.mark.parametrize("type", range(5))
@pytest.mark.parametrize("order", range(5))
def test_set_and_ask(segment, type, order):
    segment.set_field(16, segment.layout.F_TYPE, 0xFFFFFFFF)
    segment.page_type.set(16, type, order, 0)
    single = type in (
        segment.layout.TYPE_NODE,
        segment.layout.TYPE_INODE,
    )  # such a page is one alone, whatever is written there
    assert (segment.page_type.type(16), segment.page_type.order(16)) == (type, 0 if single else order)


@pytest.mark.parametrize(("pfn", "order", "read"), [(0, 6, 6), (0, 7, 0), (32, 5, 5), (33, 5, 0), (63, 0, 0), (63, 1, 0)])
def test_an_order_that_leads_out_of_the_segment_is_read_as_0(segment, pfn, order, read):
    segment.page_type.set(pfn, 1, order, 0)
    assert segment.page_type.order(pfn) == read
    assert segment.page_type.type(pfn) == 1


@pytest.mark.parametrize("order", [11, 31, 32, 63, 0xFFFFFF])
def test_an_impossible_order_is_read_as_0(segments, order):
    segment = segments(4096)
    segment.set_field(0, segment.layout.F_TYPE, 3 | order << segment.layout.ORDER_SHIFT)
    assert (segment.page_type.type(0), segment.page_type.order(0)) == (3, 0)


def test_only_the_one_word_is_written(segment):
    before = bytes(segment.buffer)
    segment.page_type.set(7, 4, 10, 0)
    assert segment.field(7, segment.layout.F_TYPE) == 4 | 10 << 8
    segment.page_type.set(7, 0, 0, 0)
    assert bytes(segment.buffer) == before
