"""The facade over simulated memory: the names of ``mm/atomics.pxd``, each handed to the ``mem`` it is called with.

Memory operations go to ``mem`` (see ``memory`` and ``machine``). Fences, ``cpu_relax`` and ``now_ns`` have no ``mem``; they go
to :data:`current`, the memory of the thread that runs at present. Time stands still here: a timeout never expires unless a
scenario makes it a choice.
"""

from . import facade_threads
from .facade_threads import GEOMETRY, ORDERS

M32 = 0xFFFFFFFF
M64 = 0xFFFFFFFFFFFFFFFF
current = None


def folio_at(mem, pfn):
    """A number that was not checked before would lead out of the segment: AssertionError."""
    assert 0 <= pfn < mem.npages, f"there is no page {pfn}"
    return facade_threads.folio_at(mem, pfn)


def page_at(mem, pfn):
    assert 0 <= pfn < mem.npages, f"there is no page {pfn}"
    return facade_threads.page_at(mem, pfn)


def load_relaxed(mem, off):
    return mem.load(off, "relaxed")


def load_acquire(mem, off):
    return mem.load(off, "acquire")


def load_seq_cst(mem, off):
    return mem.load(off, "seq_cst")


def store_relaxed(mem, off, value):
    mem.store(off, value & M32, "relaxed")


def store_release(mem, off, value):
    mem.store(off, value & M32, "release")


def store_seq_cst(mem, off, value):
    mem.store(off, value & M32, "seq_cst")


def store_relaxed64(mem, off, value):
    mem.store(off, value & M64, "relaxed")


def store_release64(mem, off, value):
    mem.store(off, value & M64, "release")


load_relaxed64 = load_relaxed
load_acquire64 = load_acquire


def _fetch_add(order):
    def fetch_add(mem, off, value):
        return mem.rmw(off, order, lambda old: (old + value) & M32)

    return fetch_add


def _fetch_sub(order):
    def fetch_sub(mem, off, value):
        return mem.rmw(off, order, lambda old: (old - value) & M32)

    return fetch_sub


def _fetch_or(order):
    def fetch_or(mem, off, value):
        return mem.rmw(off, order, lambda old: old | value & M32)

    return fetch_or


def _fetch_and(order):
    def fetch_and(mem, off, value):
        return mem.rmw(off, order, lambda old: old & value)

    return fetch_and


def _exchange(order):
    def exchange(mem, off, value):
        return mem.rmw(off, order, lambda old: value & M32)

    return exchange


def _cmpxchg(order):
    def cmpxchg(mem, off, expected, new):
        return mem.rmw(off, order, lambda old: new & M32 if old == expected & M32 else None)

    return cmpxchg


def _fence(order):
    def fence():
        if current is not None:
            current.fence(order)

    return fence


def _geometry(name):
    def read(mem):
        return getattr(mem, name)

    return read


for _name in GEOMETRY:
    globals()[_name] = _geometry(_name)
for _order in ORDERS:
    for _make in (_fetch_add, _fetch_sub, _fetch_or, _fetch_and, _exchange, _cmpxchg):
        globals()[f"{_make.__name__[1:]}_{_order}"] = _make(_order)
    if _order != "relaxed":
        globals()[f"fence_{_order}"] = _fence(_order)


def read32(mem, off):
    return mem.read(off)


def write32(mem, off, value):
    mem.write(off, value & M32)


def write64(mem, off, value):
    mem.write(off, value & M64)


read64 = read32


def write_bytes(mem, off, data, n):
    """Keys and other text: one cell, written at once."""
    mem.write(off, bytes(data[:n]))


def copy_in_relaxed(mem, off, data, n):
    for at in range(0, n, 8):
        mem.store(off + at, int.from_bytes(data[at : at + 8], "little"), "relaxed")


def copy_out_relaxed(mem, off, data, n):
    for at in range(0, n, 8):
        data[at : at + 8] = mem.load(off + at, "relaxed").to_bytes(8, "little")


record32 = store_relaxed


def write_once(mem, off, value):
    mem.journal(off, value & M32)


def read_once(mem, off):
    return mem.journaled(off)


def asymmetric_fence_light(mem):
    """Has an effect only with its partner ``membarrier``, see ``barriers``."""
    mem.asymmetric_fence_light()


def asymmetric_fence_heavy(mem):
    mem.membarrier()


def membarrier_register():
    return 0


def client_alive(mem, client):
    return mem.client_alive(client)


def is_stalled(mem, client, busy):
    """Always False: what a process remembers of a stalled client only saves it another wait."""
    return False


def stalled_by(mem):
    return M32


def set_stalled(mem, client, busy):
    pass


def count64(mem, off, n):
    """Does nothing: no decision depends on statistics."""


def futex_wait(mem, off, expected, timeout_ns):
    return mem.wait(off, expected)


def futex_wake(mem, off, n):
    return mem.wake(off, n)


def cpu_relax():
    if current is not None:
        current.relax()


def now_ns():
    return 1_000_000_000
