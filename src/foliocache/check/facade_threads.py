"""The facade for real Python threads: the names of ``mm/atomics.pxd`` on a ``bytearray``.

For unit tests of the core uncompiled. Every access is under one lock, and there is no memory model: the order in a name has no
effect here. ``facade_model`` has the same names with orders.
"""

import collections
import errno
import struct
import threading
import time

ORDERS = ("relaxed", "acquire", "release", "acq_rel", "seq_cst")
GEOMETRY = (
    "memmap", "data", "clients", "buckets", "ghosts", "names",
    "npages", "page_shift", "nclients", "nbuckets", "nghosts", "nnames",
)  # fmt: skip
M32 = 0xFFFFFFFF
M64 = 0xFFFFFFFFFFFFFFFF

_u32 = struct.Struct("<I")
_u64 = struct.Struct("<Q")
_lock = threading.Lock()


class Memory:
    """A segment of ``size`` zero bytes, or ``buffer``; ``geometry`` has keys of :data:`GEOMETRY` (a missing one is 0)."""

    def __init__(self, size, geometry=(), buffer=None):
        self.buffer = bytearray(size) if buffer is None else buffer
        self.size = size
        self.sleepers = collections.defaultdict(collections.deque)
        self.dead = set()
        given = dict(geometry)
        for name in GEOMETRY:
            setattr(self, name, given.pop(name, 0))
        if given:
            raise TypeError(f"no such geometry: {', '.join(given)}")

    @property
    def handle(self):
        return self


def _geometry(name):
    def read(mem):
        return getattr(mem, name)

    return read


def _load32(mem, off):
    return _u32.unpack_from(mem.buffer, off)[0]


def _store32(mem, off, value):
    with _lock:
        _u32.pack_into(mem.buffer, off, value & M32)


def _load64(mem, off):
    return _u64.unpack_from(mem.buffer, off)[0]


def _store64(mem, off, value):
    with _lock:
        _u64.pack_into(mem.buffer, off, value & M64)


def _rmw(compute):
    def rmw(mem, off, value):
        with _lock:
            (old,) = _u32.unpack_from(mem.buffer, off)
            _u32.pack_into(mem.buffer, off, compute(old, value) & M32)
        return old

    return rmw


def _cmpxchg(mem, off, old, new):
    with _lock:
        (found,) = _u32.unpack_from(mem.buffer, off)
        if found == old & M32:
            _u32.pack_into(mem.buffer, off, new & M32)
    return found


def _fence():
    pass


def folio_at(mem, pfn):
    return mem.memmap + pfn * 64


def page_at(mem, pfn):
    return mem.data + (pfn << mem.page_shift)


def write_bytes(mem, off, data, n):
    mem.buffer[off : off + n] = bytes(data[:n])


def copy_in_relaxed(mem, off, data, n):
    with _lock:
        mem.buffer[off : off + n] = bytes(data[:n])


def copy_out_relaxed(mem, off, data, n):
    data[:n] = mem.buffer[off : off + n]


def asymmetric_fence_light(mem):
    pass


def asymmetric_fence_heavy(mem):
    pass


def membarrier_register():
    return 0


def client_alive(mem, client):
    """Return True unless ``client`` is in ``mem.dead``, which a test fills."""
    return client not in mem.dead


def is_stalled(mem, client, busy):
    return getattr(mem, "stalled", None) == (client, _load32(mem, busy))


def stalled_by(mem):
    return getattr(mem, "stalled", (M32, 0))[0]


def set_stalled(mem, client, busy):
    mem.stalled = client, _load32(mem, busy)


def count64(mem, off, n):
    _store64(mem, off, _load64(mem, off) + n)


def futex_wait(mem, off, expected, timeout_ns):
    woken = threading.Event()
    with _lock:
        if _load32(mem, off) != expected:
            return errno.EAGAIN
        mem.sleepers[off].append(woken)
    if woken.wait(timeout_ns / 1e9):
        return 0
    with _lock:
        if woken.is_set():
            return 0
        mem.sleepers[off].remove(woken)
    return errno.ETIMEDOUT


def futex_wake(mem, off, n):
    with _lock:
        queue = mem.sleepers[off]
        count = min(n, len(queue))
        for _ in range(count):
            queue.popleft().set()
    return count


def cpu_relax():
    time.sleep(0)


now_ns = time.monotonic_ns

read32, write32, read64, write64 = _load32, _store32, _load64, _store64
load_relaxed = load_acquire = load_seq_cst = read_once = _load32
store_relaxed = store_release = store_seq_cst = record32 = write_once = _store32
load_relaxed64 = load_acquire64 = _load64
store_relaxed64 = store_release64 = _store64
fence_acquire = fence_release = fence_acq_rel = fence_seq_cst = _fence

for _name in GEOMETRY:
    globals()[_name] = _geometry(_name)
for _order in ORDERS:
    globals()[f"fetch_add_{_order}"] = _rmw(lambda old, value: old + value)
    globals()[f"fetch_sub_{_order}"] = _rmw(lambda old, value: old - value)
    globals()[f"fetch_or_{_order}"] = _rmw(lambda old, value: old | value)
    globals()[f"fetch_and_{_order}"] = _rmw(lambda old, value: old & value)
    globals()[f"exchange_{_order}"] = _rmw(lambda old, value: value)
    globals()[f"cmpxchg_{_order}"] = _cmpxchg
