"""A segment whose clients can be killed at every step: what they do, how it is settled, and what must hold afterwards.

In the interpreted world only, whose steps are calls of the facade's functions. A client is stopped right before a write; a
stop before a load would leave behind the same as one before the write that follows it.
"""

import contextlib
import traceback

import world as worlds

DYING, REAPER, THIRD, LIVING = 1, 2, 3, 0

# Few words in a slot, small nodes, and no empty pages kept, so that a pool in which everything is freed is one free block.
SMALL = worlds.SMALL_NODES | {"PINS": 64, "TREE_LOCKS": 2, "SLAB_KEEP": 0, "LOCK_SPINS": 1}
WRITES = ("store_", "record32", "write_once", "write", "copy_in", "fetch_", "exchange_", "cmpxchg_", "count64")


NAME = 5  # the name that a client asks for


class Killed(BaseException):
    """Simulates SIGKILL: derived from BaseException, so no handler in the core catches it."""


class Bench(worlds.Segment):
    """A segment on which clients work as processes do: ``folio_steps.pyx`` has the same operations."""

    def __init__(self, world, pages=64, folios=1, order=0, span=0):
        """Make a segment in which all objects have that many units of that order; folios have up to 2^span of them."""
        super().__init__(world, pages)
        self.folios = folios
        self.order = order
        self.span = span
        self.height = world.xarray.height_for(folios)
        self.whole = self.free_lists()
        for me in range(self.shape["nclients"]):
            self.client.attach(me)

    @contextlib.contextmanager
    def operation(self, me):
        self.client.op_begin(me)
        yield
        self.client.op_end(me)

    def open_mapping(self, me, key):
        with self.operation(me):
            return self.open(key, self.folios, self.order, me=me)

    def look_up(self, me, n, key, index):
        """Pin the folio cached at index, in word n of the ledger. Return its pfn, or NIL."""
        with self.operation(me):
            ino = self.mapping.lookup(me, key, key + 1)
        if ino == 0:
            return self.layout.NIL
        return self.filemap.lookup(me, n, ino, self.mapping.head(ino), self.mapping.mark(ino), self.height, index)

    def grab(self, me, n, key, index):
        """Pin the folio at index, adding it if necessary. Return what ``filemap.grab`` returns."""
        layout = self.layout
        got = layout.GRAB_GONE
        while got == layout.GRAB_GONE:
            ino = self.open_mapping(me, key)
            if ino == 0:
                return layout.GRAB_NOMEM
            with self.operation(me):
                got = self.filemap.grab(me, ino, index, self.order, self.span, self.folios * worlds.PAGE << self.order)
                if got not in (layout.GRAB_NOMEM, layout.GRAB_GONE):
                    self.client.hold(me, n, got & layout.NIL)
        return got

    def fill_folio(self, me, pfn, content):
        self.set_content(pfn, content)
        with self.operation(me):
            self.filemap.complete(me, pfn)

    def load(self, me, n, key, index):
        """Pin folio index with its content, filling it if necessary. Return its pfn, or NIL if there is no room."""
        got = self.grab(me, n, key, index)
        if got == self.layout.GRAB_NOMEM:
            return self.layout.NIL
        pfn = got & self.layout.NIL
        if got & self.layout.GRAB_ADDED:
            self.fill_folio(me, pfn, content_of(key, index))
        elif not self.flags.load(self.at(pfn)) & self.layout.PG_UPTODATE:
            assert self.fill.take_over(me, pfn), "the folio's filler is dead"
            self.fill_folio(me, pfn, content_of(key, index))
        return pfn

    def fail_fill(self, me, pfn):
        with self.operation(me):
            self.filemap.remove(me, self.read64(self.at(pfn) + self.layout.F_INO), pfn)
            self.fill.fail(pfn)

    def drop(self, me, n, pfn):
        self.folio.release(me, n, pfn)

    def load_all(self, me, key, indices):
        """Load folios and release them. Return their pfns."""
        pfns = [self.load(me, 0, key, index) for index in indices]
        for pfn in pfns:
            assert pfn != self.layout.NIL
        for pfn in pfns:
            self.client.announce(me, pfn)
            self.folio.put(me, pfn)
        self.write(self.client.pin(me, 0), 0)
        return pfns

    def truncate(self, me, key):
        with self.operation(me):
            ino = self.mapping.lookup(me, key, key + 1)
            if ino:
                self.filemap.truncate(me, ino, self.folios - 1)

    def ask(self, me, key, now):
        """Ask for a name and answer; False if there is no room."""
        id = self.names.begin(me, key, key, key, now, now, b"", 0)
        if id <= self.layout.NAME_BUSY:
            return False
        return self.names.answer(me, id, now, self.layout.NAME_PRESENT, now, b"", 0)

    def known(self, me, key):
        """The size that a name says, or None."""
        out = bytearray(self.layout.NAME_SIZE - self.layout.NAME_KEY)
        if self.names.lookup(me, key, key, key, out) == self.layout.NAME_UNKNOWN:
            return None
        at = self.layout.NAME_OBJECT_SIZE - self.layout.NAME_KEY
        return int.from_bytes(out[at : at + 8], "little")

    def forget_names(self, me):
        out = bytearray(self.layout.NAME_SIZE - self.layout.NAME_KEY)
        while self.names.next_used(me, 0, out) != self.layout.NIL:
            assert self.names.forget(me, int.from_bytes(out[:8], "little"))

    # Death.

    @contextlib.contextmanager
    def killed_at(self, k, me, interruption=None):
        """Stop client me before its k-th write.

        interruption: ("before" or "behind", name, n, action), what another does then at the n-th call of a step.
        """
        steps = Steps(self.world.atomics, k, interruption)
        try:
            with steps.counted():
                yield steps
        except Killed as killed:
            steps.place = " < ".join(frame.name for frame in reversed(traceback.extract_tb(killed.__traceback__)[:-1]))
        if steps.place is not None:
            self.die(me)

    def die(self, me):
        self.mem.dead.add(me)
        self.client.set_state(me, self.layout.SLOT_DEAD)

    def restore(self, image, dead=()):
        """Restore the state of the copy."""
        self.buffer[:] = image
        self.mem.dead.clear()
        self.mem.dead.update(dead)

    def has_intent(self, me, pfn):
        """True if a client's operation has an intent for a folio."""
        words = [self.read(self.client.word_at(me, n)) for n in range(self.layout.OPS)]
        return pfn | self.layout.PIN_INTENT in words

    def dead(self):
        clients = range(self.shape["nclients"])
        return [n for n in clients if self.client.state(n) == self.layout.SLOT_DEAD]

    def settle(self, me, dead):
        """Do what ``client._settle`` does. Return how many clients have to wait."""
        for number in dead:
            self.reap.locks(me, number)
        for number in dead:
            self.reap.pins(me, number)
        keepers = []
        for number in dead:
            if self.reap.resolve_intents(me, number) and not any(
                self.reap.hand_over_unresolved(number, keeper) for keeper in keepers
            ):
                keepers.append(number)
            elif number != me:
                self.client.detach(number)
        self.reap.sweep(me)
        return len(keepers)

    def adopt(self, me):
        """Do what ``client._inherit`` does: the next client in a dead client's slot settles it."""
        self.mem.dead.discard(me)
        self.client.move_intents(me)
        self.client.attach(me)
        return self.settle(me, [me])

    # What holds.

    def locks(self):
        layout = self.layout
        slabs = [layout.SLAB_LOCK + n * layout.SLAB_STRIDE for n in range(layout.SLABS)]
        trees = [layout.TREE_LOCK + n * layout.LINE for n in range(layout.TREE_LOCKS)]
        return [layout.ALLOC_LOCK, layout.LRU_LOCK, layout.TABLE_LOCK, layout.NAMES_LOCK, *slabs, *trees]

    def assert_settled(self, pins=0):
        """Assert that nothing of a dead client is left: no name, no lock, no reference, no page that is neither free nor in
        use."""
        assert [hex(word) for word in self.locks() if self.read(word)] == []
        assert [me for me in self.dead() if not self.client.is_idle(me)] == []
        assert self.findings() == []
        census = self.census()
        assert census["pins"] == pins
        assert sum(census["pages_by_state"].values()) == self.pages
        assert self.free() == census["pages_by_state"]["free"]

    def assert_works(self, me, key, index):
        """Assert that the folio on which the client died can be pinned, with the right content, by lookup and by grab."""
        pfn = self.load(me, 0, key, index)
        assert pfn != self.layout.NIL
        assert self.content(pfn) == content_of(key, index)
        assert self.look_up(me, 1, key, index) == pfn
        for n in (0, 1):
            self.drop(me, n, pfn)
        for now in (1000, 1001):
            assert self.ask(me, NAME, now)
            assert self.known(me, NAME) == now
        assert self.client.is_idle(me)

    def assert_whole(self, me, keys):
        """Assert that everything can be freed, and is one free block then."""
        for key in keys:
            self.truncate(me, key)
        self.forget_names(me)
        with self.operation(me):
            while self.slab.shrink(me):
                pass
        assert self.findings() == []
        assert self.free() == self.pages
        assert self.free_lists() == self.whole


class Steps:
    """Counts the writes of the facade and kills at one of them."""

    def __init__(self, atomics, k, interruption):
        self.atomics = atomics
        self.k = k
        self.count = 0
        self.place = None
        self.interruption = interruption

    @contextlib.contextmanager
    def counted(self):
        self.original = {name: function for name, function in vars(self.atomics).items() if self._is_step(name)}
        try:
            self._patch()
            yield
        finally:
            vars(self.atomics).update(self.original)

    def _is_step(self, name):
        return name.startswith(WRITES) or (self.interruption is not None and name == self.interruption[1])

    def _patch(self):
        for name, function in self.original.items():
            setattr(self.atomics, name, self._step(name, function))

    def _step(self, name, function):
        is_write = name.startswith(WRITES)

        def step(*args):
            action = self._due("before", name)
            if action:
                self._undisturbed(action)
            action = self._due("behind", name)
            if is_write:
                self.count += 1
                if self.count > self.k:
                    raise Killed
            result = function(*args)
            if action:
                self._undisturbed(action)
            return result

        return step

    def _due(self, when, name):
        """Return what another client does at this step, or None."""
        if self.interruption is None or self.interruption[:2] != (when, name):
            return None
        _, _, left, action = self.interruption
        self.interruption = (when, name, left - 1, action) if left else None
        return None if left else action

    def _undisturbed(self, action):
        vars(self.atomics).update(self.original)
        action()
        self._patch()


def content_of(key, index):
    return b"k%03di%03d" % (key, index)
