"""mapping: locks that are refused, what is damaged, and in which order records and folios change; in the interpreted world."""

import pytest
from calls import Calls
from test_mapping import bucket, insert, records
from world import ME, Segment, World, interpreted

NIL, OTHER = 0xFFFFFFFF, 2


@pytest.fixture
def segment():
    return Segment(interpreted())


@pytest.fixture
def calls(segment, monkeypatch):
    return Calls(segment, monkeypatch)


@pytest.fixture(scope="module")
def impatient():
    return World("impatient mappings", {"LOCK_PATIENCE_NS": 0, "LOCK_SPINS": 0})


@pytest.fixture
def locked(impatient):
    """A segment with a record, and a client that may hold locks."""
    segment = Segment(impatient)
    segment.ino = segment.open(1)
    segment.client.attach(OTHER)
    return segment


def guard(segment, monkeypatch):
    """Let nobody look for a record in the header."""
    for name in (
        "load_relaxed",
        "load_relaxed64",
        "load_acquire64",
        "read32",
        "read64",
        "write32",
        "store_relaxed",
        "store_relaxed64",
    ):
        original = getattr(segment.world.atomics, name)

        def call(mem, at, *args, do=original, name=name):
            assert at >= segment.layout.HDR_IDENTITY_END, f"{name} at {at}"
            return do(mem, at, *args)

        monkeypatch.setattr(segment.world.atomics, name, call)


def number(segment, ino):
    return ino & segment.layout.OBJECT_MASK


def tree_lock(segment, ino):
    return segment.world.mapping._tree_lock(ino)


def set_ino(segment, ino, value):
    segment.write64(segment.mapping.record(ino) + segment.layout.MAPPING_INO, value)


def is_broken(segment, word):
    return bool(segment.read(word) & segment.layout.LOCK_BROKEN)


def mark_broken(segment, word):
    segment.robust_lock.lock(word, ME)
    segment.robust_lock.mark_broken(word)
    segment.robust_lock.unlock(word)


def owner(segment, word):
    return segment.robust_lock.owner(word)


def test_setup_forgets_all(segment):
    segment.open(1)
    segment.mapping.setup()
    assert segment.read64(segment.layout.TABLE_NEXT_INO) == 0 == records(segment)
    assert segment.mapping.lookup(ME, 1, 2) == 0


# Locks.


def test_without_the_lock_of_the_table_nothing_changes(locked, monkeypatch):
    layout, mapping = locked.layout, locked.mapping
    locked.robust_lock.lock(layout.TABLE_LOCK, OTHER)
    monkeypatch.setattr(locked.world.mapping, "_repair_table", lambda *args: pytest.fail("it is repaired"))
    assert mapping.lookup(ME, 1, 2) == layout.INO_BUSY
    assert locked.open(1) == 0 == locked.open(3)
    assert mapping.find_key(ME, 1) == layout.INO_BUSY
    mapping.release(ME, locked.ino)
    mapping.repair_table(ME)
    mapping.reap(ME, ME)
    assert (records(locked), owner(locked, layout.TABLE_LOCK)) == (1, OTHER)
    assert mapping.lock(ME, locked.ino) == layout.TREE_LOCKED


def test_without_the_lock_of_a_tree_nothing_changes(locked, monkeypatch):
    word = tree_lock(locked, locked.ino)
    pfn = locked.new_file(ino=locked.ino, index=64)
    locked.page_ref.try_get(locked.at(pfn))
    assert insert(locked, locked.ino, 64, pfn) == locked.layout.XA_EXISTS, "beyond the height"
    node = locked.slab.alloc(ME, locked.layout.SLAB_NODES, locked.ino)
    locked.robust_lock.lock(word, OTHER)
    for name in ("_recount", "_free_unlinked", "_repair_trees", "_drop"):
        monkeypatch.setattr(locked.world.mapping, name, lambda *args, name=name: pytest.fail(name))
    assert locked.mapping.lock(ME, locked.ino) == locked.layout.LOCK_BUSY
    assert locked.mapping.repair_tree(ME, NIL) == number(locked, locked.ino)
    assert locked.mapping.repair_node(ME, NIL) == node
    locked.mapping.release(ME, locked.ino)
    locked.mapping.reap(ME, ME)
    assert owner(locked, word) == OTHER and owner(locked, locked.layout.TABLE_LOCK) == NIL


def test_an_ino_is_read_under_the_lock(segment, calls):
    ino = segment.open(1)
    calls.replace("mapping._ino", [ino] * 9, lambda: owner(segment, segment.layout.TABLE_LOCK))
    assert segment.open(1) == ino == segment.mapping.lookup(ME, 1, 2)
    assert {seen for *_, seen in calls.made} == {ME}


def test_a_broken_lock_is_repaired_by_who_takes_it(segment, calls):
    ino = segment.open(1)
    node = segment.slab.alloc(ME, segment.layout.SLAB_NODES, ino)
    word = tree_lock(segment, ino)
    calls.replace("mapping._repair_trees")
    calls.replace("mapping._repair_table")
    calls.replace("mapping._free_unlinked")
    for _ in range(2):
        segment.mapping.lock(ME, ino)
        segment.mapping.unlock(ino)
        segment.mapping.lookup(ME, 1, 2)
    assert calls.made == []
    mark_broken(segment, word)
    assert segment.mapping.repair_node(ME, NIL) == node
    assert calls.names == ["mapping._repair_trees", "mapping._free_unlinked"] and calls.made[0][2] == (ME, word)
    mark_broken(segment, segment.layout.TABLE_LOCK)
    segment.mapping.lookup(ME, 1, 2)
    segment.mapping.lookup(ME, 1, 2)
    assert calls.names[2:] == ["mapping._repair_table"]


def test_repairs_under_their_locks(segment, calls):
    ino, layout = segment.open(1), segment.layout
    node = segment.slab.alloc(ME, layout.SLAB_NODES, ino)
    word = tree_lock(segment, ino)
    calls.replace("mapping._repair_table", (), lambda: owner(segment, layout.TABLE_LOCK))
    calls.replace("mapping._recount", (), lambda: owner(segment, word))
    calls.replace("mapping._free_unlinked", (), lambda: owner(segment, word))
    segment.mapping.repair_table(ME)
    assert segment.mapping.repair_tree(ME, NIL) == number(segment, ino)
    assert segment.mapping.repair_node(ME, NIL) == node
    assert [(name, *args, seen) for name, _, args, seen in calls.made] == [
        ("mapping._repair_table", ME, ME), ("mapping._recount", ME, ino, ME), ("mapping._free_unlinked", ME, ino, node, ME),
    ]  # fmt: skip
    assert owner(segment, layout.TABLE_LOCK) == owner(segment, word) == NIL


def test_there_is_nothing_to_repair(segment, monkeypatch):
    guard(segment, monkeypatch)
    assert segment.mapping.repair_tree(ME, NIL) == segment.mapping.repair_node(ME, NIL) == segment.mapping.sweep(ME, NIL) == NIL


def test_what_is_gone_is_not_repaired(segment, calls):
    """The mapping, or the node: between a look without the lock and the lock, or for good."""
    ino, layout = segment.open(1), segment.layout
    set_ino(segment, ino, 0)
    calls.replace("mapping._recount")
    calls.replace("mapping._free_unlinked")
    assert segment.mapping.repair_tree(ME, NIL) == number(segment, ino)
    node = segment.slab.alloc(ME, layout.SLAB_NODES, ino)
    assert segment.mapping.repair_node(ME, NIL) == node and calls.names == ["mapping._free_unlinked"], (
        "of a mapping that is gone"
    )
    lock, owner_word = segment.world.mapping.lock, segment.slab.at(layout.SLAB_NODES, node) + layout.OBJECT_OWNER

    def changed(mem, me, wanted):
        segment.write64(owner_word, ino + 1)
        return lock(mem, me, wanted)

    calls.monkeypatch.setattr(segment.world.mapping, "lock", changed)
    segment.mapping.repair_node(ME, NIL)
    segment.write64(owner_word, ino)

    def freed(mem, me, wanted):
        segment.slab.free(ME, layout.SLAB_NODES, node)
        segment.write64(owner_word, ino)
        return lock(mem, me, wanted)

    calls.monkeypatch.setattr(segment.world.mapping, "lock", freed)
    segment.mapping.repair_node(ME, NIL)
    assert calls.names == ["mapping._free_unlinked"]
    assert owner(segment, tree_lock(segment, ino)) == NIL


def test_locks_of_a_dead_client_are_taken_over(segment, calls):
    layout = segment.layout
    words = [layout.TREE_LOCK + n * layout.LINE for n in (0, 7, layout.TREE_LOCKS - 1)]
    segment.client.attach(OTHER)
    for word in [*words, layout.TABLE_LOCK]:
        segment.robust_lock.lock(word, OTHER)
    calls.replace("mapping._repair_trees", (), lambda: [owner(segment, word) for word in words].count(ME))
    calls.replace("mapping._repair_table", (), lambda: owner(segment, layout.TABLE_LOCK))
    segment.mapping.reap(ME, ME)
    assert calls.made == []
    segment.mapping.reap(ME, OTHER)
    assert [(name, *args, seen) for name, _, args, seen in calls.made] == [
        *(("mapping._repair_trees", ME, word, 1) for word in words), ("mapping._repair_table", ME, ME),
    ]  # fmt: skip
    assert {owner(segment, word) for word in [*words, layout.TABLE_LOCK]} == {NIL}


def test_each_tree_lock_is_used(segment):
    words = {tree_lock(segment, n << 31 | n % 7) for n in range(1, 6000)}
    assert words == {segment.layout.TREE_LOCK + n * segment.layout.LINE for n in range(segment.layout.TREE_LOCKS)}


def test_all_trees_of_a_lock_are_repaired(segment, calls):
    """And no others; and their nodes, also those of mappings that are gone."""
    inos = [segment.open(key) for key in range(1, 9)]
    nodes = [segment.slab.alloc(ME, segment.layout.SLAB_NODES, ino) for ino in inos]
    set_ino(segment, inos[3], 0)
    monkeypatch = calls.monkeypatch
    first = segment.layout.TREE_LOCK
    monkeypatch.setattr(segment.world.mapping, "_tree_lock", lambda ino: first + (ino == inos[1]) * segment.layout.LINE)
    calls.replace("mapping._recount")
    calls.replace("mapping._free_unlinked")
    segment.world.mapping._repair_trees(segment.mem, ME, first)
    assert [args for name, _, args, _ in calls.made if name == "mapping._recount"] == [
        (ME, ino) for n, ino in enumerate(inos) if n not in (1, 3)
    ]
    assert [args for name, _, args, _ in calls.made if name == "mapping._free_unlinked"] == [
        (ME, ino, node) for n, (ino, node) in enumerate(zip(inos, nodes, strict=True)) if n != 1
    ]


def test_a_recount_says_how_many_there_are(segment):
    ino = segment.open(1)
    segment.cache(ino, range(3))
    segment.write(segment.mapping.record(ino) + segment.layout.MAPPING_FOLIOS, 77)
    segment.world.mapping._recount(segment.mem, ME, ino)
    assert segment.mapping.folios(ino) == 3


@pytest.mark.parametrize(("alive", "linked", "freed"), [(1, 1, 0), (1, 0, 1), (0, 1, 1)])
def test_a_node_that_is_linked_nowhere_is_freed(segment, calls, alive, linked, freed):
    ino = segment.open(1)
    if not alive:
        set_ino(segment, ino, 0)
    calls.replace("xarray.is_linked", [linked])
    calls.replace("slab.free", [False])
    segment.robust_lock.lock(tree_lock(segment, ino), ME)
    segment.world.mapping._free_unlinked(segment.mem, ME, ino, 5)
    assert calls.names.count("slab.free") == freed and is_broken(segment, tree_lock(segment, ino)) == freed


# Records.


def test_a_key_in_the_first_chain_is_found(segment):
    ino = segment.mapping.open(ME, segment.shape["nbuckets"], 2, 555, 1, 0, 0, b"", 0, 0)
    assert segment.mapping.find_key(ME, 555) == ino and segment.mapping.find_key(ME, 556) == 0


def test_only_an_empty_record_is_swept(segment, calls):
    full, empty, other = (segment.open(key) for key in (1, 2, 3))
    segment.cache(full, [0])
    set_ino(segment, other, empty)
    calls.replace("mapping._drop_empty")
    found = NIL
    for ino in (full, empty, other):
        found = segment.mapping.sweep(ME, found)
        assert found == number(segment, ino)
    assert segment.mapping.sweep(ME, found) == NIL
    assert [args for *_, args, _ in calls.made] == [(ME, empty)]


def test_marks(segment):
    ino = segment.open(1)
    assert segment.mapping.mark(ino) == segment.backing.mark_of(segment.slab.pfn_of(number(segment, ino)))
    assert segment.mapping.mark(0) == 0 == segment.mapping.mark(segment.pages << 12 - segment.layout.OBJECT_SHIFT)


def test_what_is_no_record(segment):
    """A record of another page's type, number or place; and number 0 while it is free."""
    ino, is_record = segment.open(1), lambda n: segment.world.mapping._is_record(segment.mem, n)
    first = number(segment, ino)
    assert first == 0 and is_record(first)
    assert segment.mapping.lock(ME, 0) == segment.layout.TREE_GONE
    other = segment.open(2)
    set_ino(segment, ino, 0)
    assert not is_record(first) and is_record(number(segment, other))
    assert segment.mapping.lock(ME, 0) == segment.layout.TREE_GONE
    set_ino(segment, other, other + 1)
    assert not is_record(number(segment, other))
    set_ino(segment, other, other)
    pfn = segment.slab.pfn_of(number(segment, other))
    segment.write64(segment.at(pfn) + segment.layout.F_INO, 7)
    assert not is_record(number(segment, other))
    segment.write64(segment.at(pfn) + segment.layout.F_INO, 0)


def test_a_chain_that_leads_to_no_record_is_damaged(segment):
    ino, word = segment.open(1), segment.layout.TABLE_LOCK
    linked_at = lambda n: segment.world.mapping._linked_at(segment.mem, n)  # noqa: E731
    segment.robust_lock.lock(word, ME)
    assert linked_at(number(segment, ino)) == segment.mapping.record(ino)
    assert linked_at(NIL) == 0 and not is_broken(segment, word)
    assert linked_at(number(segment, ino) + 1) == 0 and is_broken(segment, word)


def test_a_record_is_made_before_it_has_its_ino(segment, monkeypatch):
    """And the number is noted as given before it is given."""
    layout, made, atomics = segment.layout, [], segment.world.atomics
    alloc, link = segment.world.slab.alloc, segment.world.mapping._link
    monkeypatch.setattr(segment.world.slab, "alloc", lambda *args: (made.append(("alloc", *args[1:])), alloc(*args))[1])

    def linked(mem, n):
        made.append(("link", segment.read64(segment.mapping.record(n) + layout.MAPPING_INO) != 0))
        return link(mem, n)

    monkeypatch.setattr(segment.world.mapping, "_link", linked)
    for name in ("write64", "store_release64"):
        original = getattr(atomics, name)
        monkeypatch.setattr(
            atomics,
            name,
            lambda mem, at, value, do=original, name=name: (made.append((name, at, value)), do(mem, at, value))[1],
        )
    ino = segment.open(1)
    assert made[0] == ("alloc", ME, layout.SLAB_MAPPINGS, 0)
    assert made[-3:] == [
        ("write64", layout.TABLE_NEXT_INO, 1),
        ("store_release64", segment.mapping.record(ino) + layout.MAPPING_INO, ino),
        ("link", True),
    ]


def test_a_record_is_dropped_without_a_look_at_those_behind_it(segment, monkeypatch):
    behind, ino = (segment.mapping.open(ME, low, 2, low, 1, 0, 0, b"", 0, 0) for low in (1, 1 + segment.shape["nbuckets"]))
    assert bucket(segment, 1) == [number(segment, ino), number(segment, behind)]
    monkeypatch.setattr(segment.world.mapping, "_linked_at", lambda *args: pytest.fail("it looks on"))
    segment.world.mapping._drop(segment.mem, ME, ino)
    monkeypatch.undo()
    assert bucket(segment, 1) == [number(segment, behind)] and records(segment) == 1


def test_a_record_that_is_in_no_chain_is_dropped(segment, monkeypatch):
    ino = segment.open(1)
    segment.write(segment.shape["buckets"] + 4, NIL)
    guard(segment, monkeypatch)
    segment.world.mapping._drop(segment.mem, ME, ino)
    assert records(segment) == 0 == segment.slab.objects(segment.layout.SLAB_MAPPINGS)


def test_a_record_that_cannot_be_freed_is_left_to_a_repair(segment, calls):
    ino = segment.open(1)
    calls.replace("slab.free", [False])
    segment.mapping.release(ME, ino)
    assert calls.names == ["slab.free"] and is_broken(segment, segment.layout.TABLE_LOCK)
