"""The facade for real Python threads: the names of ``mm/atomics.pxd`` on a ``bytearray``.

For unit tests of the core uncompiled. Every store is under one lock. So is every load where there is no GIL: ``struct`` clears
the bytes before it writes them, which another thread would see. There is no memory model: the order in a name has no effect
here. ``facade_model`` has the same names with orders.
"""

from __future__ import annotations

import collections
import errno
import struct
import sysconfig
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, Self, TypeAlias

ORDERS = ("relaxed", "acquire", "release", "acq_rel", "seq_cst")
GEOMETRY = (
    "memmap", "data", "clients", "buckets", "ghosts", "names", "backed",
    "npages", "page_shift", "chunk_shift", "populate", "nclients", "nbuckets", "nghosts", "nnames",
)  # fmt: skip
# Of mm/layout.py, which this module does not import; tests/mm/test_atomics.py compares the two.
FOLIO_SIZE = 64
PAGES_DESCRIBED = 1536
SLOTS_BACKED = 1544
M32 = 0xFFFFFFFF
M64 = 0xFFFFFFFFFFFFFFFF

_u32 = struct.Struct("<I")
_u64 = struct.Struct("<Q")
_lock = threading.Lock()


class Shape(Protocol):
    """What both memories have: the numbers of :data:`GEOMETRY`."""

    memmap: int
    data: int
    clients: int
    buckets: int
    ghosts: int
    backed: int
    npages: int
    page_shift: int
    chunk_shift: int
    populate: int
    nclients: int
    nbuckets: int
    nghosts: int


class Memory:
    """A segment of ``size`` zero bytes, or ``buffer``; ``geometry`` has keys of :data:`GEOMETRY` (a missing one is 0)."""

    memmap: int
    data: int
    npages: int
    page_shift: int
    chunk_shift: int
    populate: int
    clients: int
    buckets: int
    ghosts: int
    nclients: int
    nbuckets: int
    nghosts: int

    def __init__(self, size: int, geometry: Mapping[str, int] | Iterable[tuple[str, int]] = (), buffer: Any = None) -> None:
        self.buffer: Any = bytearray(size) if buffer is None else buffer
        self.size = size
        self.sleepers: dict[int, collections.deque[threading.Event]] = collections.defaultdict(collections.deque)
        self.dead: set[int] = set()
        self.full = 0  # the errno of ``fallocate``, which a test sets
        self.stuck = 0  # the errno of ``punch``
        self.stalled: tuple[int, int] = (M32, 0)  # a client, and the word that it was busy with
        given = dict(geometry)
        for name in GEOMETRY:
            setattr(self, name, given.pop(name, 0))
        if given:
            raise TypeError(f"no such geometry: {', '.join(given)}")

    @property
    def handle(self) -> Self:
        return self


def _geometry(name: str) -> Callable[[Memory], int]:
    def read(mem: Memory) -> int:
        return getattr(mem, name)

    return read


def _load(word: struct.Struct) -> Callable[[Memory, int], int]:
    def load(mem: Memory, off: int) -> int:
        return word.unpack_from(mem.buffer, off)[0]

    def load_alone(mem: Memory, off: int) -> int:
        with _lock:
            return load(mem, off)

    return load_alone if sysconfig.get_config_var("Py_GIL_DISABLED") else load


_load32 = _load(_u32)
_load64 = _load(_u64)


def _store32(mem: Memory, off: int, value: int) -> None:
    with _lock:
        _u32.pack_into(mem.buffer, off, value & M32)


def _store64(mem: Memory, off: int, value: int) -> None:
    with _lock:
        _u64.pack_into(mem.buffer, off, value & M64)


def _rmw(compute: Callable[[int, int], int]) -> Callable[[Memory, int, int], int]:
    def rmw(mem: Memory, off: int, value: int) -> int:
        with _lock:
            (old,) = _u32.unpack_from(mem.buffer, off)
            _u32.pack_into(mem.buffer, off, compute(old, value) & M32)
        return old

    return rmw


def _cmpxchg(mem: Memory, off: int, old: int, new: int) -> int:
    with _lock:
        (found,) = _u32.unpack_from(mem.buffer, off)
        if found == old & M32:
            _u32.pack_into(mem.buffer, off, new & M32)
    return found


def _fence() -> None:
    pass


def npages_max(mem: Memory) -> int:
    return mem.npages


def npages(mem: Memory) -> int:
    return min(_load32(mem, PAGES_DESCRIBED), mem.npages)


def nclients_max(mem: Memory) -> int:
    return mem.nclients


def nclients(mem: Memory) -> int:
    return min(_load32(mem, SLOTS_BACKED), mem.nclients)


def fallocate(mem: Memory, off: int, n: int) -> int:
    return mem.full


def punch(mem: Memory, off: int, n: int) -> int:
    if not mem.stuck:
        mem.buffer[off : off + n] = bytes(n)
    return mem.stuck


def folio_at(mem: Shape, pfn: int) -> int:
    return mem.memmap + pfn * FOLIO_SIZE


def page_at(mem: Shape, pfn: int) -> int:
    return mem.data + (pfn << mem.page_shift)


def write_bytes(mem: Memory, off: int, data: bytes, n: int) -> None:
    mem.buffer[off : off + n] = bytes(data[:n])


def copy_in_relaxed(mem: Memory, off: int, data: bytes, n: int) -> None:
    with _lock:
        mem.buffer[off : off + n] = bytes(data[:n])


def copy_out_relaxed(mem: Memory, off: int, data: bytearray, n: int) -> None:
    with _lock:
        data[:n] = mem.buffer[off : off + n]


def asymmetric_fence_light(mem: Memory) -> None:
    pass


def asymmetric_fence_heavy(mem: Memory) -> None:
    pass


def membarrier_register() -> int:
    return 0


def client_alive(mem: Memory, client: int) -> bool:
    """Return True unless ``client`` is in ``mem.dead``, which a test fills."""
    return client not in mem.dead


def is_stalled(mem: Memory, client: int, busy: int) -> bool:
    return mem.stalled == (client, _load32(mem, busy))


def stalled_by(mem: Memory) -> int:
    return mem.stalled[0]


def set_stalled(mem: Memory, client: int, busy: int) -> None:
    mem.stalled = client, _load32(mem, busy)


def count64(mem: Memory, off: int, n: int) -> None:
    _store64(mem, off, _load64(mem, off) + n)


def futex_wait(mem: Memory, off: int, expected: int, timeout_ns: int) -> int:
    woken = threading.Event()
    with _lock:
        if _u32.unpack_from(mem.buffer, off)[0] != expected:
            return errno.EAGAIN
        mem.sleepers[off].append(woken)
    if woken.wait(timeout_ns / 1e9):
        return 0
    with _lock:
        if woken.is_set():
            return 0
        mem.sleepers[off].remove(woken)
    return errno.ETIMEDOUT


def futex_wake(mem: Memory, off: int, n: int) -> int:
    with _lock:
        queue = mem.sleepers[off]
        count = min(n, len(queue))
        for _ in range(count):
            queue.popleft().set()
    return count


def cpu_relax() -> None:
    time.sleep(0)


now_ns: Callable[[], int] = time.monotonic_ns

_Load: TypeAlias = Callable[[Memory, int], int]
_Store: TypeAlias = Callable[[Memory, int, int], None]
read32: _Load = _load32
load_relaxed: _Load = _load32
load_acquire: _Load = _load32
load_seq_cst: _Load = _load32
read_once: _Load = _load32
write32: _Store = _store32
store_relaxed: _Store = _store32
store_release: _Store = _store32
store_seq_cst: _Store = _store32
record32: _Store = _store32
write_once: _Store = _store32
read64: _Load = _load64
load_relaxed64: _Load = _load64
load_acquire64: _Load = _load64
write64: _Store = _store64
store_relaxed64: _Store = _store64
store_release64: _Store = _store64
fence_acquire: Callable[[], None] = _fence
fence_release: Callable[[], None] = _fence
fence_acq_rel: Callable[[], None] = _fence
fence_seq_cst: Callable[[], None] = _fence

for _name in GEOMETRY:
    if _name not in ("npages", "nclients"):
        globals()[_name] = _geometry(_name)
for _order in ORDERS:
    globals()[f"fetch_add_{_order}"] = _rmw(lambda old, value: old + value)
    globals()[f"fetch_sub_{_order}"] = _rmw(lambda old, value: old - value)
    globals()[f"fetch_or_{_order}"] = _rmw(lambda old, value: old | value)
    globals()[f"fetch_and_{_order}"] = _rmw(lambda old, value: old & value)
    globals()[f"exchange_{_order}"] = _rmw(lambda old, value: value)
    globals()[f"cmpxchg_{_order}"] = _cmpxchg
