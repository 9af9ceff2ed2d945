"""pagelist: doubly linked lists of pfns."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from world import Segment, compiled, interpreted

NIL = 0xFFFFFFFF


class List:
    """A list whose two words are where no other part of the segment looks."""

    def __init__(self, segment):
        self.segment = segment
        self.where = segment.shape["clients"] + segment.layout.CLIENT_LEDGER
        self.reset()

    def __getattr__(self, function):
        return lambda *args: getattr(self.segment.pagelist, function)(self.where, *args)

    def both_ways(self):
        forward, backward = self.segment.words_on(self.where), []
        pfn = self.segment.read(self.where + self.segment.layout.LIST_LAST)
        while pfn != NIL:
            backward.append(pfn)
            pfn = self.segment.field(pfn, self.segment.layout.F_PREV)
        assert forward == backward[::-1]
        return forward


@pytest.fixture
def pages(segment):
    return List(segment)


def test_before(segment, pages):
    for pfn in (3, 5, 7):
        pages.push_first(pfn)
    assert [segment.pagelist.before(pfn) for pfn in (3, 5, 7)] == [5, 7, NIL]
    segment.set_field(5, segment.layout.F_PREV, segment.pages)
    assert segment.pagelist.before(5) == NIL, "damaged"


def test_a_new_list_is_empty(pages):
    assert pages.first() == pages.last() == NIL
    assert pages.both_ways() == []


def test_first_and_last(pages):
    pages.push_first(5)
    assert (pages.first(), pages.last()) == (5, 5)
    pages.push_first(0)
    pages.push_last(63)
    assert pages.both_ways() == [0, 5, 63]
    assert (pages.first(), pages.last()) == (0, 63)


@pytest.mark.parametrize("gone", [1, 2, 3])
def test_remove_at_each_place(pages, gone):
    for pfn in (1, 2, 3):
        pages.push_last(pfn)
    pages.remove(gone)
    assert pages.both_ways() == [pfn for pfn in (1, 2, 3) if pfn != gone]


def test_remove_the_only_one(pages):
    pages.push_last(9)
    pages.remove(9)
    assert pages.both_ways() == []


def test_reset_forgets(pages):
    pages.push_last(9)
    pages.reset()
    assert pages.both_ways() == []


@pytest.mark.parametrize("garbage", [64, 65, 0x7FFFFFFF, 0xFFFFFFFE, NIL])
def test_links_out_of_the_segment_end_the_list(pages, garbage):
    layout = pages.segment.layout
    pages.segment.write(pages.where + layout.LIST_FIRST, garbage)
    pages.segment.write(pages.where + layout.LIST_LAST, garbage)
    assert pages.first() == pages.last() == NIL
    pages.push_first(4)
    pages.segment.set_field(4, layout.F_NEXT, garbage)
    pages.segment.set_field(4, layout.F_PREV, garbage)
    pages.remove(4)
    assert pages.both_ways() == []


@pytest.mark.parametrize("make", [compiled, interpreted])
@given(steps=st.lists(st.tuples(st.sampled_from(["push_first", "push_last", "remove"]), st.integers(0, 15)), max_size=60))
def test_as_a_python_list(make, steps):
    pages, model = List(Segment(make(), pages=16)), []
    for step, pfn in steps:
        if step == "remove":
            if pfn not in model:
                continue
            model.remove(pfn)
        elif pfn in model:
            continue
        else:
            model.insert(0 if step == "push_first" else len(model), pfn)
        getattr(pages, step)(pfn)
        assert pages.both_ways() == model
        assert (pages.first(), pages.last()) == ((model[0], model[-1]) if model else (NIL, NIL))
