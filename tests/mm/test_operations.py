"""What every operation keeps to, of those that are called from outside the core, in the interpreted world.

It begins before the first access to shared memory and ends after the last; a folio whose count it changes is named in the slot
of its client; and it leaves no lock, no intent and no finding. Each operation is run where there is memory enough, where it is
short, and where another client holds a lock, each in turn, until the operation has been refused it; then what it has left is
settled, as the library does.
"""

import contextlib
import functools

import pytest
from world import BYTES, ME, PAGE, Segment, World

OTHER = 2
NIL = 0xFFFFFFFF
ACCESS = (
    "load_",
    "store_",
    "fetch_",
    "cmpxchg_",
    "exchange_",
    "read32",
    "read64",
    "write32",
    "write64",
    "write_once",
    "copy_",
    "write_bytes",
    "punch",
)
CHANGE = ("fetch_add_", "fetch_sub_")
NAME_OUT = bytearray(512)


@functools.cache
def impatient():
    return World("impatient operations", {"LOCK_PATIENCE_NS": 0, "LOCK_SPINS": 0})


class Watch:
    """Watches the accesses of one client while its operations run."""

    def __init__(self, segment):
        self.segment, self.layout = segment, segment.layout
        self.slot = segment.world.client.slot(segment.mem, ME)
        self.wrong = []
        self.began = 0
        # What is asked outside operations, to wait for a grace period.
        self.numbers = {segment.client.slot(each) + self.layout.CLIENT_OP_SEQ for each in range(segment.shape["nclients"])}

    @property
    def operations(self):
        return self.segment.read(self.slot + self.layout.CLIENT_OP_SEQ)

    def names(self):
        """Return the pfns in the slot."""
        first = self.slot + self.layout.CLIENT_OPS
        words = [self.segment.read(first + 4 * n) for n in range(self.layout.OPS)]
        words += [self.segment.read(self.segment.client.pin(ME, n)) for n in range(self.layout.PINS)]
        return {word & self.layout.PIN_PFN for word in words if word}

    def look(self, name, at):
        shape, layout = self.segment.shape, self.layout
        if name == "write_once" and at != self.slot + layout.CLIENT_OP_SEQ and not self.operations & 1:
            self.wrong.append(f"a word of the slot is written outside an operation: {at}")
        if self.slot <= at < self.slot + layout.CLIENT_SIZE or (name == "load_acquire" and at in self.numbers):
            return
        if not self.operations & 1:
            self.wrong.append(f"{name} of {at} outside an operation")
        pfn, field = divmod(at - shape["memmap"], layout.FOLIO_SIZE)
        if field == layout.F_REF and 0 <= pfn < self.segment.pages and name.startswith(CHANGE) and pfn not in self.names():
            self.wrong.append(f"{name} of the count of folio {pfn}, which is not named")

    def grace(self, mem):
        if self.operations & 1:
            self.wrong.append("a grace period is waited for within an operation")

    @contextlib.contextmanager
    def watching(self, monkeypatch):
        atomics = self.segment.world.atomics
        with monkeypatch.context() as patch:
            for name in dir(atomics):
                if name.startswith(ACCESS) and callable(getattr(atomics, name)):
                    patch.setattr(atomics, name, self.wrapped(name, getattr(atomics, name)))
            patch.setattr(atomics, "asymmetric_fence_heavy", self.grace)
            before = self.operations
            yield
        assert self.wrong == []
        assert self.operations > before, "no operation began"
        assert not self.operations & 1, "an operation did not end"

    def wrapped(self, name, function):
        def access(mem, at, *rest):
            self.look(name, at)
            return function(mem, at, *rest)

        return access


class Ready:
    """A segment with an object: folio 0 is cached and unused, 1 is pinned by word 0 of the ledger, 2 is being filled and pinned
    by word 1, word 2 has a window over folio 1; and with a name that is known, and one that is asked for."""

    def __init__(self, world, pages=64):
        self.segment = s = Segment(world, pages)
        self.layout = s.layout
        self.ino = s.open()
        s.cache(self.ino, [0])
        self.pinned = s.add(self.ino, 1)
        s.client.hold(ME, 0, self.pinned)
        self.filled = s.filemap.grab(ME, self.ino, 2, 0, 0, BYTES) & NIL
        s.client.hold(ME, 1, self.filled)
        self.table = s.pagetable.make(ME, 2, 4)
        s.page_ref.get(s.at(self.pinned))
        s.pagetable.map(self.table, 0, self.pinned)
        self.head, self.mark = s.mapping.head(self.ino), s.mapping.mark(self.ino)
        self.height = world.xarray.height_for(64)
        self.text = b"name".ljust(168, b"\0")
        self.known = self.ask(7)
        assert s.names.answer(ME, self.known, 1, self.layout.NAME_PRESENT, 1, b"", 0)
        self.asked = self.ask(8)
        s.trim.evict(ME, 0)

    def ask(self, key):
        return self.segment.names.begin(ME, key, key, key, 1, 1, self.text, 4)

    def settle(self):
        """Undo what was prepared, so that the audit must be empty."""
        s = self.segment
        for n in range(self.layout.PINS):
            word = s.read(s.client.pin(ME, n))
            if not word & self.layout.PIN_OWNED:
                continue
            pfn = word & self.layout.PIN_PFN
            if s.page_type.is_private(pfn, self.layout.TYPE_TABLE):
                s.pagetable.release(ME, n, pfn)
                continue
            if s.flags.load(s.at(pfn)) & self.layout.PG_LOCKED:
                s.filemap.withdraw(ME, pfn, 0)
            s.folio.release(ME, n, pfn)


OPERATIONS = {
    "look up": lambda r: r.segment.filemap.lookup(ME, 3, r.ino, r.head, r.mark, r.height, 0),
    "look up in vain": lambda r: r.segment.filemap.lookup(ME, 3, r.ino, r.head, r.mark, r.height, 9),
    "add": lambda r: r.segment.filemap.add(ME, 3, r.ino, 9, 0, 0, BYTES),
    "add two units": lambda r: r.segment.filemap.add(ME, 3, r.ino, 8, 0, 1, BYTES),
    "add what is there": lambda r: r.segment.filemap.add(ME, 3, r.ino, 0, 0, 0, BYTES),
    "add to nothing": lambda r: r.segment.filemap.add(ME, 3, r.ino + (1 << 40), 0, 0, 0, BYTES),
    "finish a fill": lambda r: r.segment.filemap.finish_fill(ME, r.filled),
    "withdraw": lambda r: r.segment.filemap.withdraw(ME, r.filled, 0),
    "withdraw with a reason": lambda r: r.segment.filemap.withdraw(ME, r.filled, 1),
    "invalidate": lambda r: r.segment.filemap.invalidate(ME, 1, 2, 60),
    "invalidate nothing": lambda r: r.segment.filemap.invalidate(ME, 3, 4, 60),
    "forget": lambda r: r.segment.filemap.forget(ME, 1, 0),
    "forget nothing": lambda r: r.segment.filemap.forget(ME, 2, 0),
    "open": lambda r: r.segment.filemap.open(ME, 9, 9, 9, PAGE, 0, 0, b"another!", 7, 0),
    "open what is there": lambda r: r.segment.filemap.open(ME, 1, 2, 1, 64 * PAGE, 0, r.height, b"key", 3, 0),
    "resolve": lambda r: r.segment.filemap.resolve(ME, 1, 2),
    "resolve nothing": lambda r: r.segment.filemap.resolve(ME, 3, 4),
    "release": lambda r: r.segment.folio.release(ME, 0, r.pinned),
    "make a table": lambda r: r.segment.pagetable.make(ME, 3, 4),
    "make a table that is too large": lambda r: r.segment.pagetable.make(ME, 3, 1 << 24),
    "release a table": lambda r: r.segment.pagetable.release(ME, 2, r.table),
    "move": lambda r: r.segment.pagetable.move(ME, 0, r.table, 1, r.pinned),
    "look up in a table": lambda r: r.segment.pagetable.lookup(ME, 3, r.table, 0),
    "look up in a table in vain": lambda r: r.segment.pagetable.lookup(ME, 3, r.table, 3),
    "evict": lambda r: r.segment.trim.evict(ME, 1),
    "evict everything": lambda r: r.segment.trim.evict(ME, 64),
    "evict a chunk": lambda r: r.segment.trim.evict_chunk(ME),
    "give memory back": lambda r: r.segment.trim.give_back(ME, 32),
    "ask": lambda r: r.ask(9),
    "ask what is known": lambda r: r.ask(7),
    "ask what is asked": lambda r: r.ask(8),
    "answer": lambda r: r.segment.names.answer(ME, r.asked, 1, r.layout.NAME_ABSENT, 0, b"", 0),
    "answer what is gone": lambda r: r.segment.names.answer(ME, r.asked + (1 << 40), 1, r.layout.NAME_ABSENT, 0, b"", 0),
    "withdraw a question": lambda r: r.segment.names.withdraw(ME, r.asked, 1),
    "withdraw a question that is answered": lambda r: r.segment.names.withdraw(ME, r.known, 1),
    "forget a name": lambda r: r.segment.names.forget(ME, 7),
    "join": lambda r: r.segment.names.join(ME, 8, 8, 8),
    "join nothing": lambda r: r.segment.names.join(ME, 7, 7, 7),
    "look a name up": lambda r: r.segment.names.lookup(ME, 7, 7, 7, NAME_OUT),
    "look a name up in vain": lambda r: r.segment.names.lookup(ME, 6, 6, 6, NAME_OUT),
    "list the names": lambda r: r.segment.names.next_used(ME, 0, NAME_OUT),
}  # fmt: skip


@functools.cache
def prepared(pages):
    ready = Ready(impatient(), pages)
    return ready, bytes(ready.segment.buffer)


def ready(pages=64):
    """Return what is prepared, as at first."""
    found, image = prepared(pages)
    found.segment.buffer[:] = image
    found.segment.mem.stalled = NIL, 0
    return found


@pytest.mark.parametrize("pages", [64, 10])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation(name, pages, monkeypatch):
    r = ready(pages)
    segment = r.segment
    with Watch(segment).watching(monkeypatch):
        OPERATIONS[name](r)
    assert segment.client.intents(ME) == 0
    segment.reap.sweep(ME)  # an object that was opened has no folio yet
    assert segment.findings() == []
    r.settle()
    assert segment.findings() == []


# What an operation returns while another client holds one of these locks. With any other lock it returns what it always does.
LAYOUT = impatient().layout
REFUSED = {
    "add": ("alloc tree", LAYOUT.GRAB_NOMEM),
    "add two units": ("alloc tree", LAYOUT.GRAB_NOMEM),
    "add what is there": ("tree", LAYOUT.GRAB_NOMEM),
    "invalidate": ("alloc lru table tree", False),
    "invalidate nothing": ("table", False),
    "forget": ("alloc lru table tree", LAYOUT.INO_BUSY),
    "forget nothing": ("table", LAYOUT.INO_BUSY),
    "open": ("table mappings", 0),
    "open what is there": ("table", 0),
    "resolve": ("table", 0),
    "make a table": ("alloc", NIL),
    "release a table": ("alloc", False),
    "evict": ("alloc lru tree", 0),
    "evict everything": ("alloc lru tree", 0),
    "evict a chunk": ("alloc lru tree", False),
    "give memory back": ("alloc", 0),
    "ask": ("names", LAYOUT.NAME_BUSY),
    "ask what is known": ("names", LAYOUT.NAME_BUSY),
    "ask what is asked": ("names", LAYOUT.NAME_BUSY),
    "answer": ("names", False),
    "forget a name": ("names", False),
    "join": ("names", 0),
}


def locks(r):
    """Return the locks of the pool, and of the trees that of the object, by name."""
    layout = r.layout
    slabs = {"nodes": layout.SLAB_NODES, "mappings": layout.SLAB_MAPPINGS, "records": layout.SLAB_NAMES}
    return {
        "alloc": layout.ALLOC_LOCK,
        "lru": layout.LRU_LOCK,
        "table": layout.TABLE_LOCK,
        "names": layout.NAMES_LOCK,
        "tree": r.segment.world.mapping._tree_lock(r.ino),
        **{name: layout.SLAB_LOCK + number * layout.SLAB_STRIDE for name, number in slabs.items()},
    }


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_that_is_refused_a_lock(name, monkeypatch):
    answer = OPERATIONS[name](ready())
    refusing, refused = REFUSED.get(name, ("", None))
    for lock, word in locks(ready()).items():
        r = ready()
        segment = r.segment
        segment.client.attach(OTHER)
        assert segment.robust_lock.lock(word, OTHER) != segment.layout.LOCK_BUSY
        with Watch(segment).watching(monkeypatch):
            got = OPERATIONS[name](r)
        if (name, lock) == ("ask", "records"):  # as if there was no memory for a record
            assert got == segment.layout.NAME_NOMEM
        else:
            assert got == (refused if lock in refusing.split() else answer), lock
        assert [each["slot"] for each in segment.world.audit.held_locks(segment.memory)] == [OTHER]
        segment.robust_lock.unlock(word)
        segment.reap.locks(ME, ME)
        for n in range(segment.client.intents(ME)):
            assert segment.client.defer(ME, segment.layout.PINS - 1 - n)
        r.settle()
        assert segment.reap.resolve_intents(ME, ME) == 0
        segment.reap.sweep(ME)
        assert segment.client.is_idle(ME)
        assert segment.findings() == [], lock


def test_a_fill_that_cannot_be_withdrawn_is_left_to_a_waiter():
    """The tree's lock is refused, so the folio stays where it is, locked, and has no filler."""
    r = ready()
    r.segment.client.attach(OTHER)
    assert r.segment.robust_lock.lock(locks(r)["tree"], OTHER) == r.layout.LOCK_TAKEN
    r.segment.filemap.withdraw(ME, r.filled, 0)
    assert r.segment.flags.load(r.segment.at(r.filled)) & r.layout.PG_LOCKED
    assert r.segment.field(r.filled, r.layout.F_OWNER) == NIL
