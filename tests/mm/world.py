"""The core, compiled and interpreted (the two *worlds*), and segments of plain memory for it.

``compiled`` is what users import; ``interpreted`` is the same files, run uncompiled by the checker's loader on plain memory. A
test that takes the fixture ``segments`` (see conftest) runs in both.
"""

import ctypes
import functools
import importlib
import os
import re
import struct
import threading
import traceback

from hypothesis import settings

from foliocache.check import facade_threads, loader
from foliocache.check.scenarios import CORE
from foliocache.pool import geometry

MODULES = loader.modules(CORE)
PAGE = 4096
BYTES = 1 << 60  # of an object whose end no test comes to
ME = 1
PATIENCE = 30  # seconds until a thread or process counts as hung

# A small radix tree: 4 slots to a node. Objects are smaller then, so a page must have room for more numbers.
SMALL_NODES = {"NODE_SHIFT": 2, "OBJECT_SHIFT": 6}


class World:
    """One copy of the core. ``world.page_ref`` is its module; ``world.unlocked`` calls it with the GIL released."""

    def __init__(self, name, overrides=None):
        self.name = name
        self.compiled = name == "compiled"
        self.unlocked = self
        if self.compiled:
            for module in MODULES:
                setattr(self, module, importlib.import_module(f"foliocache.mm.{module}"))
            self.unlocked = _Unlocked(self)
        else:
            core = loader.load(CORE, facade_threads, overrides)
            for module in MODULES:
                setattr(self, module, getattr(core, module))
        self._check()

    def _check(self):
        """Assert that the core is compiled, or interpreted, as it says. Every test's segment comes from here."""
        for module in MODULES:
            file = getattr(self, module).__file__
            shared_object = self.compiled and module != "layout"
            assert file.endswith(".so" if shared_object else ".py"), f"{self.name}: {module} is {file}"

    def memory(self, shape, buffer):
        if self.compiled:
            return self.atomics.Memory(buffer, buffer, shape)
        return PlainMemory(shape["size"], {key: shape[key] for key in shape if key not in ("size", "pool")}, buffer)


class PlainMemory(facade_threads.Memory):
    """Plain memory with the methods of the compiled core's Memory that ``audit.mappings`` calls."""

    def peek_bytes(self, off, n):
        return bytes(self.buffer[off : off + n])


@functools.cache
def compiled():
    return World("compiled")


@functools.cache
def interpreted():
    return World("interpreted")


@functools.cache
def small_nodes():
    return World("small nodes", SMALL_NODES)


class Segment:
    """A new segment with all of its tables set up. ``segment.page_ref.try_get(folio)`` calls the core with its ``mem``."""

    def __init__(self, world, pages=64, page_size=PAGE, clients=4, buffer=None):
        self.world = world
        self.layout = world.layout
        self.shape = geometry.compute(pages, page_size, clients)
        self.buffer = bytearray(self.shape["size"]) if buffer is None else buffer
        self.memory = world.memory(self.shape, self.buffer)
        self.mem = self.memory.handle
        self.pages = pages
        while self.backing.back_slot():
            pass
        self.page_alloc.setup(pages)
        while self.page_alloc.back(ME, 0):
            pass
        self.lru.setup()
        self.slab.setup()
        self.mapping.setup()
        self.names.setup()
        self.client.attach(ME)

    def __getattr__(self, module):
        if module not in MODULES:
            raise AttributeError(module)
        bound = _Bound(getattr(self.world, module), self.mem)
        setattr(self, module, bound)
        return bound

    @property
    def unlocked(self):
        """As the segment itself, but its calls run with the GIL released in the compiled world: for threads that block."""
        return _UnlockedSegment(self)

    # Words.

    def read(self, at):
        return struct.unpack_from("<I", self.buffer, at)[0]

    def write(self, at, value):
        struct.pack_into("<I", self.buffer, at, value)

    def read64(self, at):
        return struct.unpack_from("<Q", self.buffer, at)[0]

    def write64(self, at, value):
        struct.pack_into("<Q", self.buffer, at, value)

    # Folios.

    def at(self, pfn):
        """Return the offset of a page's descriptor."""
        return self.shape["memmap"] + pfn * self.layout.FOLIO_SIZE

    def field(self, pfn, offset):
        return self.read(self.at(pfn) + offset)

    def set_field(self, pfn, offset, value):
        self.write(self.at(pfn) + offset, value)

    def count(self, pfn):
        return self.field(pfn, self.layout.F_REF)

    def content(self, pfn, length=8):
        start = self.shape["data"] + (pfn << self.shape["page_shift"])
        return bytes(self.buffer[start : start + length])

    def set_content(self, pfn, content):
        start = self.shape["data"] + (pfn << self.shape["page_shift"])
        self.buffer[start : start + len(content)] = content

    def new_file(self, order=0, ino=0, index=0):
        """Make a live FILE folio with one reference, the caller's, in no mapping. Return its pfn."""
        pfn = self.page_alloc.alloc(ME, order)
        assert pfn != self.layout.NIL
        self.folio.prepare(pfn, self.layout.TYPE_FILE, order, 0, ino, index, 1)
        self.page_ref.init(self.at(pfn), 1)
        return pfn

    # Mappings.

    def open(self, key=1, folios=64, order=0, text=b"key", me=ME):
        """Return the ino of an object of that many folios, made if necessary. Keys with the same last digit are versions of one
        object."""
        height = self.world.xarray.height_for(folios)
        return self.mapping.open(me, key, key + 1, key % 10, folios * PAGE << order, order, height, text, len(text), 0)

    def find(self, ino, index, folios=64):
        """Pin by the lock-free lookup. Return a pfn or NIL."""
        return self.filemap.find_get(ME, ino, self.mapping.head(ino), self.world.xarray.height_for(folios), index)

    def add(self, ino, index, order=0):
        """Grab and fill a folio that is not cached yet. Return its pfn, pinned."""
        found = self.filemap.grab(ME, ino, index, order, 0, BYTES)
        assert found & self.layout.GRAB_ADDED, hex(found)
        pfn = found & self.layout.NIL
        self.filemap.complete(ME, pfn)
        return pfn

    def cache(self, ino, indices, order=0):
        """Add folios and release them. Return {index: pfn}."""
        added = {}
        for index in indices:
            added[index] = self.add(ino, index, order)
            self.folio.put(ME, added[index])
        return added

    # The ledger of ME: for pins that the audit has to know, and for more pins than an operation has words.

    def word_of(self, value):
        return next(n for n in range(self.layout.PINS) if self.read(self.client.pin(ME, n)) == value)

    def hold(self, pfn):
        """Record a reference of ME in its ledger. Return the pfn."""
        self.client.hold(ME, self.word_of(0), pfn)
        return pfn

    def let_go(self, pfn):
        """Drop a reference that is recorded."""
        self.folio.release(ME, self.word_of(pfn | self.layout.PIN_OWNED), pfn)

    def give_back_empty_pages(self, me=ME):
        """Return all empty pages to the allocator, except those that the slab caches keep."""
        while self.slab.shrink(me):
            pass

    # Contents.

    def free(self):
        return self.page_alloc.free_pages()

    def empty(self):
        """Return how many slab pages have no object in use."""
        layout, types = self.layout, {self.layout.TYPE_NODE: 0, self.layout.TYPE_INODE: 0, self.layout.TYPE_NAME: 0}
        for pfn in range(self.pages):
            if self.field(pfn, layout.F_TYPE) in types and self.field(pfn, layout.F_USED) == 0 and not self.count(pfn) >> 31:
                types[self.field(pfn, layout.F_TYPE)] += 1
        counted = [self.read(layout.SLAB_EMPTY + cache * layout.SLAB_STRIDE) for cache in range(layout.SLABS)]
        assert counted == [*types.values()]
        return sum(counted)

    def available(self):
        """Return how many pages are free or have no object in use."""
        return self.free() + self.empty()

    def words_on(self, where):
        """Return the pfns on a list, first to last."""
        found, pfn = [], self.read(where + self.layout.LIST_FIRST)
        while pfn != self.layout.NIL:
            found.append(pfn)
            pfn = self.field(pfn, self.layout.F_NEXT)
        return found

    def free_lists(self):
        """Return {order: pfns} of the free blocks, in the lists' order."""
        start, size = self.layout.ALLOC_LISTS, self.layout.LIST_SIZE
        lists = {order: self.words_on(start + order * size) for order in range(self.layout.MAX_ORDER + 1)}
        return {order: pfns for order, pfns in lists.items() if pfns}

    def findings(self):
        return self.world.audit.audit(self.memory)

    def census(self):
        return self.world.audit.census(self.memory)


class Word:
    """A word of a segment, ``word.value``, and a module's functions that are given ``at``: ``word.try_get()``."""

    def __init__(self, segment, functions, at, offset=0):
        self.segment, self.at = segment, at
        self._functions, self._word = functions, at + offset

    @property
    def value(self):
        return self.segment.read(self._word)

    @value.setter
    def value(self, value):
        self.segment.write(self._word, value)

    def __getattr__(self, function):
        return lambda *args: getattr(self._functions, function)(self.at, *args)


class _Bound:
    """A module of the core whose functions are called without ``mem``."""

    def __init__(self, module, mem):
        self._module = module
        self._mem = mem

    def __getattr__(self, function):
        bound = functools.partial(getattr(self._module, function), self._mem)
        setattr(self, function, bound)
        return bound


class _UnlockedSegment:
    def __init__(self, segment):
        self._segment = segment

    def __getattr__(self, module):
        return _Bound(getattr(self._segment.world.unlocked, module), self._segment.mem)


class _Unlocked:
    """The compiled core through ctypes, which releases the GIL: the C functions that the modules export to each other."""

    def __init__(self, world):
        self._world = world

    def __getattr__(self, module):
        return _UnlockedModule(getattr(self._world, module))


class _UnlockedModule:
    def __init__(self, module):
        self._module = module

    def __getattr__(self, function):
        return _c_function(self._module, function)


_C_TYPES = {
    "void": None, "int": ctypes.c_int, "uint32_t": ctypes.c_uint32, "uint64_t": ctypes.c_uint64, "int64_t": ctypes.c_int64,
    "mem_t": ctypes.c_size_t, "char const *": ctypes.c_char_p, "char *": ctypes.c_char_p,
}  # fmt: skip


@functools.cache
def _c_function(module, name):
    capsule = module.__pyx_capi__[name]
    get_name, get_pointer = ctypes.pythonapi.PyCapsule_GetName, ctypes.pythonapi.PyCapsule_GetPointer
    get_name.restype, get_name.argtypes = ctypes.c_char_p, [ctypes.py_object]
    get_pointer.restype, get_pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    signature = get_name(capsule)
    result, arguments = re.fullmatch(r"(.*) \((.*)\)", signature.decode()).groups()
    arguments = [argument.removesuffix(" __pyx_skip_dispatch") for argument in arguments.split(", ")]
    prototype = ctypes.CFUNCTYPE(_C_TYPES[result], *(_C_TYPES[argument] for argument in arguments))
    function = prototype(get_pointer(capsule, signature))
    if "__pyx_skip_dispatch" not in signature.decode():
        return function
    return lambda *values: function(*values, 0)


def state_machine(machine, make_world, examples):
    """The TestCase of a Hypothesis machine in one world: ``self.make()`` is that world."""
    in_world = type(machine.__name__, (machine,), {"make": staticmethod(make_world)})
    in_world.TestCase.settings = settings(max_examples=examples, stateful_step_count=30)
    return in_world.TestCase


def together(*functions):
    """Run each function in a thread, all started at once. Return their results. Raises what one raised, or if one hangs."""
    start = threading.Barrier(len(functions))
    results, errors = [None] * len(functions), []

    def run(number, function):
        try:
            start.wait(PATIENCE)
            results[number] = function()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=pair, daemon=True) for pair in enumerate(functions)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    if errors:
        raise errors[0]
    assert not any(thread.is_alive() for thread in threads), "a thread hangs"
    return results


def forked(*functions):
    """Run each function in a forked process. Raises unless every one returns in time."""
    children = [_fork(function) for function in functions]
    failed = []
    for pid in children:
        alarm = threading.Timer(PATIENCE, os.kill, (pid, 9))
        alarm.start()
        _, status = os.waitpid(pid, 0)
        alarm.cancel()
        if status:
            failed.append(status)
    assert not failed, f"children failed: {failed}"


def _fork(function):
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        function()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)
