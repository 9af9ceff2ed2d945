"""The facade over simulated memory: the names of ``mm/atomics.pxd``, each handed to the ``mem`` it is called with.

Memory operations go to ``mem`` (see ``memory`` and ``machine``). Fences, ``cpu_relax`` and ``now_ns`` have no ``mem``; they go
to :data:`current`, the memory of the thread that is running. Simulated time does not advance: a timeout never expires unless a
scenario makes it a choice.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NoReturn

from . import facade_threads
from .facade_threads import GEOMETRY, ORDERS
from .memory import Failure

if TYPE_CHECKING:
    from .graph import Loc, Value
    from .memory import Mem

M32 = 0xFFFFFFFF
M64 = 0xFFFFFFFFFFFFFFFF
current: Mem | None = None


def folio_at(mem: Mem, pfn: int) -> int:
    """Return the offset of a page's descriptor. Raises AssertionError for a pfn beyond the segment, which the core must have
    checked."""
    assert 0 <= pfn < mem.npages, f"there is no page {pfn}"
    return facade_threads.folio_at(mem, pfn)


def page_at(mem: Mem, pfn: int) -> int:
    assert 0 <= pfn < mem.npages, f"there is no page {pfn}"
    return facade_threads.page_at(mem, pfn)


def npages_max(mem: Mem) -> int:
    return mem.npages


def npages(mem: Mem) -> int:
    """Return how many pages have descriptors: all have, before a program begins, unless its geometry has ``describes``."""
    return min(load_acquire(mem, facade_threads.PAGES_DESCRIBED), mem.npages) if mem.describes else mem.npages


def nclients_max(mem: Mem) -> int:
    return mem.nclients


def nclients(mem: Mem) -> int:
    """Return how many client slots have memory: all have, before a program begins, unless its geometry has ``grows``."""
    return min(load_acquire(mem, facade_threads.SLOTS_BACKED), mem.nclients) if mem.grows else mem.nclients


def fallocate(mem: Mem, off: int, n: int) -> int:
    """Give memory. That of a page is a cell of its own, which a scenario reads where the core touches the bytes. That of a
    client slot is an atomic one where a program has ``grows``: several may ask for it. That of the descriptors is none."""
    if mem.grows and mem.clients <= off < mem.buckets:
        mem.store(("memory", off), 1, "relaxed")
    elif off >= mem.data:
        mem.write(("memory", off), 1)
    return 0


def punch(mem: Mem, off: int, n: int) -> int:
    """Take the memory away that ``fallocate`` has given."""
    mem.write(("memory", off), 0)
    return 0


def load_relaxed(mem: Mem, off: Loc) -> Value:
    value = mem.load(off, "relaxed")
    return value if value <= M32 else _too_wide(off)


def load_acquire(mem: Mem, off: Loc) -> Value:
    value = mem.load(off, "acquire")
    return value if value <= M32 else _too_wide(off)


def load_seq_cst(mem: Mem, off: Loc) -> Value:
    value = mem.load(off, "seq_cst")
    return value if value <= M32 else _too_wide(off)


def _too_wide(off: Loc) -> NoReturn:
    raise Failure(
        "mixed sizes", f"a load of 32 bits of {off}, where 64 bits were stored: a word is accessed with one width here"
    )


def store_relaxed(mem: Mem, off: Loc, value: int) -> None:
    mem.store(off, value & M32, "relaxed")


def store_release(mem: Mem, off: Loc, value: int) -> None:
    mem.store(off, value & M32, "release")


def store_seq_cst(mem: Mem, off: Loc, value: int) -> None:
    mem.store(off, value & M32, "seq_cst")


def store_relaxed64(mem: Mem, off: Loc, value: int) -> None:
    if value > M32:
        mem.wide(off)
    mem.store(off, value & M64, "relaxed")


def store_release64(mem: Mem, off: Loc, value: int) -> None:
    if value > M32:
        mem.wide(off)
    mem.store(off, value & M64, "release")


def load_relaxed64(mem: Mem, off: Loc) -> Value:
    return mem.load(off, "relaxed")


def load_acquire64(mem: Mem, off: Loc) -> Value:
    return mem.load(off, "acquire")


def _fetch_add(order: str) -> Callable[[Mem, Loc, int], Value]:
    def fetch_add(mem: Mem, off: Loc, value: int) -> Value:
        return mem.rmw(off, order, lambda old: (old + value) & M32)

    return fetch_add


def _fetch_sub(order: str) -> Callable[[Mem, Loc, int], Value]:
    def fetch_sub(mem: Mem, off: Loc, value: int) -> Value:
        return mem.rmw(off, order, lambda old: (old - value) & M32)

    return fetch_sub


def _fetch_or(order: str) -> Callable[[Mem, Loc, int], Value]:
    def fetch_or(mem: Mem, off: Loc, value: int) -> Value:
        return mem.rmw(off, order, lambda old: old | value & M32)

    return fetch_or


def _fetch_and(order: str) -> Callable[[Mem, Loc, int], Value]:
    def fetch_and(mem: Mem, off: Loc, value: int) -> Value:
        return mem.rmw(off, order, lambda old: old & value)

    return fetch_and


def _exchange(order: str) -> Callable[[Mem, Loc, int], Value]:
    def exchange(mem: Mem, off: Loc, value: int) -> Value:
        return mem.rmw(off, order, lambda old: value & M32)

    return exchange


def _cmpxchg(order: str) -> Callable[[Mem, Loc, int, int], Value]:
    def cmpxchg(mem: Mem, off: Loc, expected: int, new: int) -> Value:
        return mem.rmw(off, order, lambda old: new & M32 if old == expected & M32 else None)

    return cmpxchg


def _fence(order: str) -> Callable[[], None]:
    def fence() -> None:
        if current is not None:
            current.fence(order)

    return fence


def _geometry(name: str) -> Callable[[Mem], int]:
    def read(mem: Mem) -> int:
        return getattr(mem, name)

    return read


for _name in GEOMETRY:
    if _name not in ("npages", "nclients"):
        globals()[_name] = _geometry(_name)
for _order in ORDERS:
    for _make in (_fetch_add, _fetch_sub, _fetch_or, _fetch_and, _exchange, _cmpxchg):
        globals()[f"{_make.__name__[1:]}_{_order}"] = _make(_order)
    if _order != "relaxed":
        globals()[f"fence_{_order}"] = _fence(_order)


def read32(mem: Mem, off: Loc) -> Value:
    return mem.read(off)


def write32(mem: Mem, off: Loc, value: int) -> None:
    mem.write(off, value & M32)


def write64(mem: Mem, off: Loc, value: int) -> None:
    if value > M32:
        mem.wide(off)
    mem.write(off, value & M64)


def read64(mem: Mem, off: Loc) -> Value:
    return mem.read(off)


def write_bytes(mem: Mem, off: Loc, data: bytes, n: int) -> None:
    """Write text, such as a key, as one cell in one step."""
    if n:
        mem.write(off, bytes(data[:n]))


def copy_in_relaxed(mem: Mem, off: int, data: bytes, n: int) -> None:
    for at in range(0, n, 8):
        mem.store(off + at, int.from_bytes(data[at : at + 8], "little"), "relaxed")


def copy_out_relaxed(mem: Mem, off: int, data: bytearray, n: int) -> None:
    for at in range(0, n, 8):
        data[at : at + 8] = mem.load(off + at, "relaxed").to_bytes(8, "little")


record32 = store_relaxed


def write_once(mem: Mem, off: Loc, value: int) -> None:
    mem.write_once(off, value & M32)


def read_once(mem: Mem, off: Loc) -> Value:
    return mem.read_once(off)


def asymmetric_fence_light(mem: Mem) -> None:
    """Has an effect only with its partner ``asymmetric_fence_heavy``, see ``barriers``."""
    mem.asymmetric_fence_light()


def asymmetric_fence_heavy(mem: Mem) -> None:
    mem.membarrier()


def membarrier_register() -> int:
    return 0


def client_alive(mem: Mem, client: int) -> bool:
    return mem.client_alive(client)


def is_stalled(mem: Mem, client: int, busy: int) -> bool:
    """Return False: what a process remembers about a stalled client only saves it another wait."""
    return False


def stalled_by(mem: Mem) -> int:
    return M32


def set_stalled(mem: Mem, client: int, busy: int) -> None:
    pass


def count64(mem: Mem, off: Loc, n: int) -> None:
    """Do nothing: no decision depends on statistics."""


def futex_wait(mem: Mem, off: Loc, expected: int, timeout_ns: int) -> int:
    return mem.wait(off, expected)


def futex_wake(mem: Mem, off: Loc, n: int) -> int:
    return mem.wake(off, n)


def cpu_relax() -> None:
    if current is not None:
        current.relax()


def now_ns() -> int:
    return 1_000_000_000
