"""xarray: the radix tree from folio index to pfn. Every test also runs with 4 slots to a node."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from world import ME, Segment, compiled, interpreted, small_nodes, state_machine

NIL = 0xFFFFFFFF
OK, EXISTS, NOMEM = 0, 1, 2
LIMIT = 1 << 40


class Tree:
    """A tree of one height, whose head is where no other part of the segment looks."""

    def __init__(self, world, height, pages=64):
        self.segment = Segment(world, pages)
        self.layout = world.layout
        self.xarray = self.segment.xarray
        self.shift = world.layout.NODE_SHIFT
        self.height = height
        self.head = self.segment.shape["clients"] + world.layout.CLIENT_LEDGER
        self.segment.write(self.head, 0)
        self.limit = min(LIMIT, 1 << height * self.shift)

    def store(self, index, pfn):
        return self.xarray.store(ME, self.head, self.height, index, 0, pfn, 77)

    def erase(self, index):
        pfn = self.load(index)
        erased = self.xarray.erase(ME, self.head, self.height, index, 0, pfn if pfn != NIL else 0)
        assert bool(erased & self.layout.XA_CLEARED) == (pfn != NIL)
        return erased & self.layout.XA_LEAKED == 0

    def slot(self, index):
        return self.xarray.find(self.head, self.height, index)

    def load(self, index):
        slot = self.slot(index)
        return self.xarray.load(slot) if slot else NIL

    def next(self, index, last):
        return self.xarray.next_index(self.head, self.height, index, last)

    def nodes(self):
        return self.segment.slab.objects(self.layout.SLAB_NODES)


@pytest.fixture
def tree(tree_world):
    """Makes trees: ``tree(height)``."""
    return lambda height, pages=64: Tree(tree_world, height, pages)


def spread(limit):
    """Indices at the edges of nodes of every level."""
    edges = {0, 1, limit - 1, limit // 2} | {1 << bit for bit in range(40)} | {(1 << bit) - 1 for bit in range(41)}
    return sorted(index for index in edges if index < limit)


@pytest.mark.parametrize("height", range(8))
def test_height_for(tree_world, height):
    span = 1 << height * tree_world.layout.NODE_SHIFT
    assert tree_world.xarray.height_for(span) == height
    if span < LIMIT:
        assert tree_world.xarray.height_for(span + 1) == height + 1
    assert tree_world.xarray.height_for(0) == 0


def test_the_tallest_tree(tree_world):
    assert tree_world.xarray.height_for(LIMIT) == -(-40 // tree_world.layout.NODE_SHIFT)


@pytest.mark.parametrize("height", range(8))
def test_store_load_erase_at_every_height(tree, height):
    tree = tree(height)
    stored = {index: number % 64 for number, index in enumerate(spread(tree.limit))}
    for index, pfn in stored.items():
        assert tree.load(index) == NIL
        assert tree.store(index, pfn) == OK
    for index, pfn in stored.items():
        assert tree.load(index) == pfn
    for index in stored:
        assert tree.erase(index)
        assert tree.load(index) == NIL
    assert tree.segment.read(tree.head) == 0
    assert (tree.nodes(), tree.segment.available()) == (0, 64)


def test_all_of_the_index_range(tree_world):
    tree = Tree(tree_world, tree_world.xarray.height_for(LIMIT))
    for number, index in enumerate((0, LIMIT - 1, LIMIT // 3)):
        assert tree.store(index, number) == OK
    assert [tree.load(index) for index in (0, LIMIT // 3, LIMIT - 1)] == [0, 2, 1]
    assert [tree.next(index, LIMIT - 1) for index in (0, 1, LIMIT // 3 + 1)] == [0, LIMIT // 3, LIMIT - 1]
    assert tree.next(LIMIT // 3 + 1, LIMIT - 2) == LIMIT - 1
    tree.erase(LIMIT - 1)
    assert tree.next(LIMIT // 3 + 1, LIMIT - 1) == LIMIT


def test_every_pfn_of_the_segment(tree):
    tree = tree(2)
    for index in range(16):
        assert tree.store(index, (0, 1, 62, 63)[index % 4]) == OK
    assert [tree.load(index) for index in range(16)] == [0, 1, 62, 63] * 4


def test_a_taken_index_is_not_overwritten(tree):
    tree = tree(2)
    assert tree.store(3, 10) == OK
    nodes = tree.nodes()
    assert tree.store(3, 11) == EXISTS
    assert (tree.load(3), tree.nodes()) == (10, nodes)


def test_a_head_alone_holds_one_entry(tree):
    tree = tree(0)
    assert tree.slot(0) == tree.head
    assert tree.store(0, 63) == OK
    assert tree.store(0, 1) == EXISTS
    assert tree.segment.read(tree.head) == 64 << 1
    assert (tree.next(0, 0), tree.erase(0), tree.next(0, 0)) == (0, True, 1)
    assert tree.segment.free() == 64


def test_erase_of_nothing(tree):
    tree = tree(3)
    assert tree.erase(5)
    tree.store(4, 9)
    assert tree.erase(5)
    assert tree.erase(tree.limit - 1)
    assert tree.load(4) == 9


def test_slots_and_reload(tree):
    tree = tree(2)
    assert tree.slot(7) == 0
    tree.store(7, 30)
    slot = tree.slot(7)
    assert tree.xarray.load(slot) == tree.xarray.reload(slot) == 30
    tree.store(6, 31)
    assert tree.slot(6) == slot - 4
    tree.erase(7)
    assert tree.xarray.load(slot) == tree.xarray.reload(slot) == NIL


def test_a_node_goes_when_it_is_empty_and_its_page_is_free_with_the_last(tree):
    tree = tree(3)
    span = 1 << 2 * tree.shift
    for index in (0, 1, span):
        tree.store(index, 5)
    assert tree.nodes() == 5  # a root, and two below it for each of two subtrees
    assert tree.erase(0)
    assert tree.nodes() == 5
    assert tree.erase(1)
    assert tree.nodes() == 3
    assert (tree.segment.free(), tree.segment.empty()) == (63, 0)
    assert tree.erase(span)
    assert (tree.nodes(), tree.segment.available()) == (0, 64)
    assert tree.segment.findings() == []


def test_without_memory_nothing_changes(tree):
    """Even if some nodes on the way down have been made: they are freed."""
    tree = tree(5, pages=2)
    stored, header = [], bytes(tree.segment.buffer[:64])
    for refused in range(0, tree.limit, 1 << 2 * tree.shift):  # each one needs two nodes of its own, or more
        if tree.store(refused, 1) == NOMEM:
            break
        stored.append(refused)
    assert tree.segment.free() == 0
    nodes = tree.nodes()
    for _ in range(3):
        assert tree.store(refused, 1) == NOMEM
    assert tree.nodes() == nodes
    assert bytes(tree.segment.buffer[:64]) == header
    assert tree.load(refused) == NIL
    assert {tree.load(index) for index in stored} == {1}
    for index in stored:
        tree.erase(index)
    assert (tree.nodes(), tree.segment.available()) == (0, 2)


def test_next_index_over_ranges(tree):
    tree = tree(4)
    present = sorted({0, 3, 4, 5, (1 << 2 * tree.shift) - 1, 1 << 3 * tree.shift, tree.limit - 1})
    for index in present:
        tree.store(index, 1)
    starts = sorted({near for index in present for near in (index - 1, index, index + 1) if 0 <= near < tree.limit})
    for start in starts:
        for last in starts:
            expected = next((index for index in present if start <= index <= last), last + 1)
            assert tree.next(start, last) == (expected if start <= last else last + 1)


def test_next_index_in_an_empty_tree(tree):
    tree = tree(6)
    assert tree.next(0, tree.limit - 1) == tree.limit
    assert tree.next(17, 17) == 18


def test_a_nodes_words_tell_where_it_belongs(tree):
    tree = tree(3)
    index = (2 << 2 * tree.shift) + (1 << tree.shift) + 3
    tree.store(index, 9)
    slot, level = tree.head, tree.height
    while level:
        node = tree.xarray.node_at(tree.segment.read(slot))
        level -= 1
        span = (level + 1) * tree.shift
        assert (tree.segment.read(node), tree.segment.read(node + tree.layout.NODE_LEVEL)) == (1, level)
        assert tree.segment.read64(node + tree.layout.NODE_INO) == 77
        assert tree.segment.read64(node + tree.layout.NODE_INDEX) == index >> span << span
        slot = tree.segment.world.xarray.slot_at(node, level, index)
    assert slot == tree.slot(index)


# Garbage: a walker reads memory of a node that is used for something else.


def test_an_entry_is_a_folio_a_node_or_nothing(tree):
    tree = tree(0)
    node_at, pfn_of = tree.xarray.node_at, tree.xarray.pfn_of
    assert [pfn_of(entry) for entry in (0, 2, 128, 130, 0xFFFFFFFE)] == [NIL, 0, 63, NIL, NIL]
    assert [pfn_of(entry) for entry in (1, 3, NIL)] == [NIL] * 3
    assert [node_at(entry) for entry in (0, 2, 128, NIL)] == [0] * 4
    assert node_at(1) == tree.segment.shape["data"]


@pytest.mark.parametrize("make", [compiled, interpreted, small_nodes])
@given(entry=st.integers(0, NIL), level=st.integers(0, 20), index=st.integers(0, LIMIT - 1))
def test_no_entry_leads_out_of_the_segment(make, entry, level, index):
    tree = _trees.setdefault(make, Tree(make(), 1))
    assert tree.xarray.pfn_of(entry) == NIL or tree.xarray.pfn_of(entry) < 64
    node = tree.xarray.node_at(entry)
    if node:
        slot = tree.segment.world.xarray.slot_at(node, level, index)
        assert tree.segment.shape["data"] <= node < slot <= tree.segment.shape["size"] - 4


_trees = {}


@pytest.mark.parametrize("make", [compiled, interpreted, small_nodes])
@given(seed=st.integers(0, 2**32 - 1), height=st.integers(0, 7), share=st.sampled_from([0.0, 0.5, 0.95, 1.0]))
@settings(max_examples=60)
def test_walks_through_garbage_stay_inside_and_end(make, seed, height, share):
    """Every word of the data is garbage, some of which looks like existing nodes."""
    tree, rng = Tree(make(), height, pages=8), random.Random(seed)
    data, size = tree.segment.shape["data"], tree.segment.shape["size"]
    units = 8 << (tree.segment.shape["page_shift"] - tree.layout.OBJECT_SHIFT)

    def garbage():
        return rng.randrange(units) << 1 | 1 if rng.random() < share else rng.getrandbits(32)

    for at in [tree.head, *range(data, size, 4)]:
        tree.segment.write(at, garbage())
    for index in (rng.randrange(tree.limit) for _ in range(30)):
        slot = tree.slot(index)
        assert slot in (0, tree.head) or data <= slot <= size - 4
        if slot:
            assert tree.xarray.load(slot) in (NIL, *range(8))
            assert tree.xarray.reload(slot) in (NIL, *range(8))
        last = min(index + 40, tree.limit - 1)
        assert index <= tree.next(index, last) <= last + 1


class TreeMachine(RuleBasedStateMachine):
    """A tree against a dict, with memory that may run out."""

    make = None
    pages = 24

    @initialize(height=st.integers(0, 7))
    def plant(self, height):
        self.tree = Tree(self.make(), height, self.pages)
        self.model = {}
        self.hoard = []

    def index(self, place, near):
        return (place % min(self.tree.limit, 9) if near else place) % self.tree.limit

    @rule(place=st.integers(0, LIMIT), near=st.booleans(), pfn=st.integers(0, 23))
    def store(self, place, near, pfn):
        index = self.index(place, near)
        status = self.tree.store(index, pfn)
        if index in self.model:
            assert status == EXISTS
        elif status == OK:
            self.model[index] = pfn
        else:
            assert status == NOMEM
            assert self.tree.segment.free() == 0

    @rule(choice=st.integers(0, 1000))
    def erase(self, choice):
        if self.model:
            index = sorted(self.model)[choice % len(self.model)]
            del self.model[index]
            assert self.tree.erase(index)

    @rule(place=st.integers(0, LIMIT), near=st.booleans())
    def look(self, place, near):
        index = self.index(place, near)
        assert self.tree.load(index) == self.model.get(index, NIL)

    @rule(place=st.integers(0, LIMIT), other=st.integers(0, LIMIT), near=st.booleans())
    def iterate(self, place, other, near):
        first, last = sorted((self.index(place, near), self.index(other, False)))
        found, index = [], self.tree.next(first, last)
        while index <= last:
            found.append(index)
            index = self.tree.next(index + 1, last) if index < last else last + 1
        assert index == last + 1
        assert found == sorted(index for index in self.model if first <= index <= last)

    @rule()
    def hoard_all_memory(self):
        while (pfn := self.tree.segment.page_alloc.alloc(ME, 0)) != NIL:
            self.hoard.append(pfn)

    @rule()
    def give_memory_back(self):
        while self.hoard:
            self.tree.segment.page_alloc.free(ME, self.hoard.pop(), 0)

    @invariant()
    def the_nodes_are_those_the_model_needs(self):
        tree = self.tree
        needed = sum(len({index >> (level + 1) * tree.shift for index in self.model}) for level in range(tree.height))
        assert tree.nodes() == needed
        pages = tree.segment.read(tree.layout.SLAB_PAGES)
        assert tree.segment.free() + pages + len(self.hoard) == self.pages

    def teardown(self):
        for index in self.model:
            self.tree.erase(index)
        assert self.tree.segment.available() + len(self.hoard) == self.pages


TestTreeCompiled = state_machine(TreeMachine, compiled, 40)
TestTreeInterpreted = state_machine(TreeMachine, interpreted, 40)
TestTreeSmallNodes = state_machine(TreeMachine, small_nodes, 40)


def test_a_store_changes_no_header(tree):
    """The head is in no node, so it is counted nowhere."""
    one = tree(1)
    before = bytes(one.segment.buffer[:64])
    assert one.store(0, 5) == OK
    assert bytes(one.segment.buffer[:64]) == before


def test_a_store_without_memory_says_if_a_node_is_left(monkeypatch):
    """There is memory for one node of two, and that one cannot be given back."""
    one = Tree(small_nodes(), 2)
    alloc, given_out = one.segment.world.slab.alloc, []

    def once(*arguments):
        given_out.append(alloc(*arguments) if not given_out else NIL)
        return given_out[-1]

    monkeypatch.setattr(one.segment.world.slab, "alloc", once)
    monkeypatch.setattr(one.segment.world.slab, "free", lambda *arguments: False)
    assert one.store(5, 5) == one.layout.XA_BROKEN
    assert len(given_out) == 2


@pytest.mark.parametrize("tag", [0, 1])
def test_an_entry_that_leads_to_no_page_of_nodes(tree, tag):
    """Nothing is written there, and a repair takes it out."""
    two = tree(2)
    _, taken = two.segment.new_file(), two.segment.new_file()
    number = taken << 12 - two.layout.OBJECT_SHIFT
    content = bytes(range(256)) * 16
    two.segment.set_content(taken, content)
    two.segment.write(two.head, number << 1 | tag)
    assert two.store(5, 9) == NOMEM
    assert two.xarray.erase(ME, two.head, two.height, 5, 0, 9) == 0
    assert two.segment.content(taken, 4096) == content
    assert two.segment.read(two.head) == number << 1 | tag
    assert two.xarray.recount(ME, two.head, two.height, 77) == 0
    assert two.segment.read(two.head) == 0 and two.segment.content(taken, 4096) == content


def test_a_node_of_no_level_of_the_tree_is_not_linked(tree):
    two = tree(2)
    two.store(5, 9)
    number = two.segment.read(two.head) >> 1
    assert two.xarray.is_linked(two.head, two.height, number)
    node = two.xarray.node_at(number << 1 | 1)
    two.segment.write(node + two.layout.NODE_LEVEL, 2)
    assert not two.xarray.is_linked(two.head, two.height, number)
