"""The operations in which a process is killed, on one small segment.

A scene is a function of a ``World``. It sets the segment up, and returns what the child does first: that joins as a client, and
returns the operation itself, which is run to one of its instructions and no further.
"""

import contextlib
import ctypes
import functools
import mmap
import os
import random
import signal

from stepping import AT_THE_END, REACHED, Stepper
from units import offsets, unit

import foliocache
from foliocache.mm import client, layout, names, page_alloc, slab, vmscan
from foliocache.pool import geometry
from foliocache.pool import names as names_module
from foliocache.pool.client import adopt as adopt_slot
from foliocache.pool.client import opened

HUGE = "FOLIOCACHE_TEST_HUGE" in os.environ  # two chunks of 2 MiB, on a file system that gives huge pages
HUGE_PAGE = 1 << layout.HUGE_SHIFT
PAGE = 32_768 if HUGE else 4096
PAGES = 128
SIZES = {"small": 3 * PAGE + 100, "wide": 30 * PAGE, "large": 600_000 * PAGE // 4096, "other": 5 * PAGE}
LIBC = ctypes.CDLL(None, use_errno=True)
PAIRS = {f"pair {n}": 2 * PAGE for n in range(10)}


@functools.cache
def content(key):
    return random.Random(key).randbytes((SIZES | PAIRS)[key])


def source(key):
    return lambda offset, length: content(key)[offset : offset + length]


def punch(fd, begin, length):
    """Take a part of a file's memory away."""
    keep_size, punch_hole = 1, 2
    assert LIBC.fallocate(fd, keep_size | punch_hole, ctypes.c_long(begin), ctypes.c_long(length)) == 0, ctypes.get_errno()


class World:
    """The segment, and this process as its first client, which lives on."""

    def __init__(self, name):
        if HUGE:
            geometry.HUGE_MIN = PAGES * PAGE
        self.pool = foliocache.open(name, size=PAGES * PAGE, max_size=PAGES * PAGE, page_size=PAGE, clients=4, pressure=False)
        self.attachment = self.pool._attachment
        self.segment = self.attachment.segment
        self.mem = self.segment.mem
        assert self.segment.chunk == (HUGE_PAGE if HUGE else max(PAGE, 1 << layout.CHUNK_SHIFT))
        self.memory = mmap.mmap(self.segment.fd, self.segment.geometry["size"])
        self.empty = self.image()
        self.stepper = Stepper(self.mem)
        self.held = []  # by the child

    def image(self):
        """Return the segment's bytes, without giving it memory."""
        return os.pread(self.segment.fd, self.segment.geometry["size"], 0)

    def restore(self, image):
        """Make the segment what it was: with memory for its tables, and for its pages where it says so."""
        shape, chunk = self.segment.geometry, self.segment.chunk
        self.memory[: shape["data"]] = image[: shape["data"]]
        marks = image[shape["backed"] : shape["memmap"]]
        for number, begin in enumerate(range(shape["data"], shape["size"], chunk)):
            end = min(begin + chunk, shape["size"])
            if marks[number >> 3] >> (number & 7) & 1:
                self.memory[begin:end] = image[begin:end]
            else:
                punch(self.segment.fd, begin, end - begin)

    def mapping(self, key):
        """Return a new mapping each time: the segment is reset between kills, and an old mapping could know the ino of a later
        record."""
        return self.pool.mapping(key, len(content(key)), "v", source(key))

    def fill(self, key, count=None):
        """Fill an object's first folios."""
        mapping = self.mapping(key)
        for index in range(count or len(offsets(mapping))):
            unit(mapping, index)
        return mapping

    def join(self):
        return self.attachment.number

    # Assertions after a death.

    def settle(self, work_first):
        """Settle what dead clients left, and assert that the pool works. Living clients may also work before the reaper
        runs."""
        if work_first:
            self.work()
        _, waiting = self.attachment.reap()
        assert waiting == 0
        self.check()
        self.work()
        for record in self.pool.mappings():
            self.pool.forget(record.key)
        self.check()
        pages = self.pool.stat().pages_by_state
        assert pages.file == pages.table == 0, pages

    def check(self):
        """Assert that no page is lost or pinned, and that every slot is clean except this process's, which names no folio."""
        assert self.pool.audit() == []
        stat = self.pool.stat()
        pages = stat.pages_by_state
        assert sum(pages.to_dict().values()) == PAGES and pages.frozen == 0 and stat.pins == 0, stat
        assert [(c.slot, c.state, c.pins) for c in stat.clients] == [(self.join(), "attached", 0)], stat.clients
        assert all(client.is_idle(self.mem, slot) for slot in range(self.segment.slots))

    def work(self):
        """Hits, misses and evictions of folios of both orders, a window, and a name; every byte is right."""
        with self.pool.names.ask("name") as ask:
            answered = ask.answer(100, "v")
        assert self.pool.names.recall("name", 3600).size == 100 if answered else page_alloc.free_pages(self.mem) == 0
        self.read()
        small = self.mapping("small")
        with small.window() as window:
            assert memoryview(window) == content("small")
        small.invalidate()

    def read(self):
        """The part that needs no memory, while another client has what is free."""
        for key in SIZES:
            reader = self.mapping(key)
            for start in offsets(reader)[:: 1 + len(offsets(reader)) // 12]:
                lease = reader.lease(start)
                assert memoryview(lease) == content(key)[start : start + len(lease)], (key, start)


# The operations.


def get(world):
    """A hit."""
    mapping = world.fill("small")

    def prepare():
        world.join()
        return lambda: world.held.append(mapping.lease(0))

    return prepare


def put(world):
    """A lease is released; the folio stays in the cache."""
    mapping = world.fill("small")

    def prepare():
        lease = mapping.lease(0)
        return lease.release

    return prepare


def put_last(world):
    """The last reference: the destructor runs, and two buddies merge."""
    mapping = world.fill("large", 4)

    def prepare():
        lease = unit(mapping, 2)
        mapping.invalidate()
        return lease.release

    return prepare


def evict(world):
    """Reclaim evicts the coldest folio of a tree of two levels, and frees the node that contained only this folio."""
    world.fill("small")
    mapping = world.mapping("large")
    unit(mapping, 70)

    def prepare():
        me = world.join()

        def operation():
            client.op_begin(world.mem, me)
            vmscan.shrink(world.mem, me, 100)
            client.op_end(world.mem, me)

        return operation

    return prepare


def insert(world):
    """A miss in an empty pool: record, nodes and folio are made, the source is read, the fill completed."""
    mapping = world.mapping("large")

    def prepare():
        world.join()
        return lambda: world.held.append(unit(mapping, 3))

    return prepare


def insert_full(world):
    """A miss when every page is in use: eviction, also of a whole block, then the same."""
    world.fill("wide")
    world.fill("large")
    world.fill("small")
    world.fill("wide")
    mapping = world.mapping("other")
    larger = world.mapping("large")

    def prepare():
        world.join()

        def operation():
            world.held.append(mapping.lease(0))
            world.held.append(unit(larger, 73))

        return operation

    return prepare


def insert_in_vain(world):
    """A miss for which there is a page, but none for the node that it needs: the folio is freed again."""
    large, *pairs, another = world.mapping("large"), *map(world.mapping, PAIRS)

    def prepare():
        world.held += [unit(pair, index) for pair in pairs for index in range(2)]  # nine nodes, and three for the large one
        world.held += [unit(large, index) for index in reversed(range(len(offsets(large)) - 1))]
        assert page_alloc.free_pages(world.mem) == 1 and slab.objects(world.mem, layout.SLAB_NODES) == PAGE // layout.NODE_SIZE

        def operation():
            world.held.append(unit(another, 1))
            assert not world.held[-1].cached

        return operation

    return prepare


def truncate(world):
    """An object is withdrawn folio by folio, with its tree and its record."""
    mapping = world.fill("large", 3)
    unit(mapping, 70)

    def prepare():
        world.join()
        return mapping.invalidate

    return prepare


def fail(world):
    """The source fails: the folio is withdrawn again."""

    def broken(offset, length):
        raise OSError

    mapping = world.pool.mapping("other", SIZES["other"], "v", broken)

    def prepare():
        world.join()

        def operation():
            with contextlib.suppress(OSError):
                mapping.lease(0)

        return operation

    return prepare


def window(world):
    """Four folios are mapped side by side, one of them pinned through the window's table; then all of it is closed."""
    mapping = world.fill("small")

    def prepare():
        world.join()

        def operation():
            opened = mapping.window()
            opened.lease(PAGE).release()
            opened.close()

        return operation

    return prepare


def hold(world):
    """Leases, two of them on one folio, and a window."""
    mapping = world.fill("large", 5)

    def prepare():
        world.join()

        def operation():
            world.held += [unit(mapping, index) for index in (0, 3, 3)]
            world.held.append(mapping.window(0, 40_000))

        return operation

    return prepare


def shrink_slab(world):
    """An empty page of records goes back to the allocator."""
    for number in range(40):
        world.pool.mapping(f"tiny {number}", 10, "v", lambda offset, length: bytes(length)).lease(0)
    for number in range(40):
        world.pool.forget(f"tiny {number}")
    assert world.pool.stat().pages_by_state.inode > layout.SLAB_KEEP

    def prepare():
        me = world.join()

        def operation():
            client.op_begin(world.mem, me)
            slab.shrink(world.mem, me)
            client.op_end(world.mem, me)

        return operation

    return prepare


def trim(world):
    """Folios are evicted, by age and with their neighbours, and their memory is given back."""
    world.fill("large", 45 if HUGE else 5)
    world.fill("small")
    for pair in PAIRS:
        world.fill(pair)

    def prepare():
        world.join()
        attachment = world.attachment

        def operation():
            assert attachment.evict(8) >= 8 and attachment.evict_chunk()
            while not (given := attachment.give_back(PAGES // 2)):
                assert attachment.evict_chunk()
            while given:
                given = attachment.give_back(PAGES // 2)

        return operation

    return prepare


def give_back(world):
    """The memory of a free chunk is given back."""
    world.fill("large", 45)
    world.pool.forget("large")

    def prepare():
        world.join()

        def operation():
            assert world.attachment.give_back(PAGES // 2) > 0

        return operation

    return prepare


def ask(world):
    """A name that is known is asked for again, and a new one, for which another has to go; the first is forgotten."""
    for number in range(layout.NAME_WAYS - 1):
        world.pool.names.ask(f"name {number}").answer(number, "v")
    world.pool.names.ask("name").answer(1, "v", bytes(100))

    def prepare():
        world.join()

        def operation():
            world.pool.names.ask("name").answer(2, "w", bytes(50))
            world.pool.names.ask("new").answer(3, "v")
            world.pool.names.forget("name")

        return operation

    return prepare


def withdraw_question(world):
    """A question fails while another client sleeps for its answer."""

    def prepare():
        me = world.join()
        asking = world.pool.names.ask("name")
        words = names_module._Digest("name", "").words
        assert names.join(world.mem, me, *words)
        return asking.withdraw

    return prepare


def attach(world):
    """A process becomes a client, and stops being one."""
    world.fill("small")

    def prepare():
        return lambda: join_and_leave(world)

    return prepare


def attach_beyond(world):
    """As ``attach``, and its slot has no memory yet."""
    world.fill("small")
    world.segment.memory.poke32(layout.SLOTS_BACKED, 1)

    def prepare():
        return lambda: join_and_leave(world)

    return prepare


def join_and_leave(world):
    slot = opened(world.segment)
    if not slot.join():
        adopt_slot(slot)
    slot.close()


def take_over(world):
    """A folio whose filler has died is filled by one who waits for it, who then reaps."""
    mapping = world.mapping("other")
    victim = world.pool.mapping("other", SIZES["other"], "v", lambda offset, length: os.kill(os.getpid(), signal.SIGKILL))
    pid = os.fork()
    if pid == 0:
        unit(victim, 2)
    os.waitpid(pid, 0)

    def prepare():
        world.join()
        return lambda: world.held.append(unit(mapping, 2))

    return prepare


def adopt(world):
    """A process attaches when every slot is a dead client's: it takes one over, and settles it first."""
    victim = insert_full(world)
    die(world, victim, 0.5)
    world.stepper.kill(victim, AT_THE_END)
    world.stepper.kill(victim, AT_THE_END)

    def prepare():
        return lambda: join_and_leave(world)

    return prepare


def die(world, prepare, part):
    """Leave a client that died after this part of an operation's stores, or before the first store of a module of the core."""
    before = world.image()
    if part == 1:
        world.stepper.kill(prepare, AT_THE_END)
        return
    stores = world.stepper.stores(prepare)
    world.restore(before)
    if isinstance(part, str):
        point = next(point for point in stores if world.stepper.where(point.pc).startswith(f"{part}."))
    else:
        point = stores[int(part * len(stores))]
    assert world.stepper.kill(prepare, point) == REACHED


def named(part):
    return part if isinstance(part, str) else f"{part:.0%}"


def reap(*deaths):
    """Reaping clients that died in the middle of operations: of each (operation, part)."""

    def scene(world):
        for operation, part in deaths:
            die(world, operation(world), part)

        def prepare():
            world.join()
            return world.attachment.reap

        return prepare

    scene.__name__ = "reap_" + "_".join(f"{operation.__name__}_{named(part)}" for operation, part in deaths)
    return scene


OPERATIONS = (
    get,
    put,
    put_last,
    evict,
    insert,
    insert_full,
    insert_in_vain,
    truncate,
    fail,
    window,
    shrink_slab,
    trim,
    give_back,
    ask,
    withdraw_question,
    attach,
    attach_beyond,
    take_over,
    adopt,
)
KILLED_IN = (put_last, evict, insert, insert_full, truncate, fail, window, ask)
REAPS = (
    reap((hold, 1)),
    *(reap((operation, part / 10)) for operation in KILLED_IN for part in (1, 3, 5, 7, 9)),
    reap((truncate, 0.4), (insert, 0.6)),
    reap((evict, 0.5), (window, 0.3)),
)


def withdraw(world):
    """As ``truncate``, on an object of one level."""
    mapping = world.fill("small")

    def prepare():
        world.join()
        return mapping.invalidate

    return prepare


def beside(operation, part):
    """A living client gets and puts a folio on which another died in the middle of an operation. It takes no lock."""

    def scene(world):
        die(world, operation(world), part)
        mapping = world.mapping("small")

        def prepare():
            world.join()

            def operation():
                with mapping.lease(0, PAGE) as lease:
                    assert memoryview(lease) == content("small")[:PAGE]

            return operation

        return prepare

    scene.__name__ = f"beside_{operation.__name__}_{named(part)}"
    return scene


def beside_readers(world):
    """A client gives back what is free, beside others that read."""
    world.fill("large", 5)
    world.fill("small")
    assert world.attachment.evict(8) >= 8

    def prepare():
        world.join()

        def operation():
            while world.attachment.give_back(PAGES // 2):
                pass

        return operation

    return prepare


BESIDE = (
    beside(get, 0.5),
    beside(get, 0.9),
    beside(put, 0.5),
    beside(withdraw, 0.02),
    beside(withdraw, "xarray"),
    beside_readers,
)
QUICK_REAPS = (REAPS[0], *REAPS[4:-2:6], *REAPS[-2:])
HUGE_REAPS = (reap((insert, "backing")), *(reap((give_back, part / 10)) for part in (3, 6, 9)))
IN_HUGE_PAGES = (insert, insert_full, evict, trim, give_back, *HUGE_REAPS, beside_readers)
SCENES = {scene.__name__: scene for scene in OPERATIONS + REAPS + HUGE_REAPS + BESIDE}
