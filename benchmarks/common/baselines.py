"""What a hit is compared with: plain shared memory, and LMDB."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from benchmarks.common import loops
from benchmarks.common.pools import KIB, MIB, VALUE, Pattern

SLICE = "shared-memory slice"


@contextlib.contextmanager
def shared_slices(count: int, size: int) -> Iterator[memoryview]:
    """Return ``count`` values of ``size`` bytes in plain shared memory."""
    from multiprocessing import shared_memory

    memory = shared_memory.SharedMemory(create=True, size=count * size)
    pattern = Pattern(size)
    whole: Any = memory.buf
    try:
        for n in range(count):
            with whole[n * size : (n + 1) * size] as value:
                pattern(n * size, value)
        view = whole[:]
        yield view
        with contextlib.suppress(BufferError):
            view.release()
    finally:
        with contextlib.suppress(BufferError):
            memory.close()
        memory.unlink()


@contextlib.contextmanager
def lmdb_cases(numbers: list[int], size: int = VALUE) -> Iterator[dict[str, loops.Loop]]:
    """LMDB with the same values in a temporary folder on shared memory; empty without LMDB."""
    import tempfile

    try:
        import lmdb
    except ImportError:
        yield {}
        return
    count = max(numbers) + 1
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        environment = lmdb.open(folder, map_size=2 * count * (size + 8 * KIB) + MIB, sync=False, lock=True)
        with environment.begin(write=True) as transaction:
            for n in range(count):
                transaction.put(b"value%06d" % n, bytes([n & 255]) * size)
        names = [b"value%06d" % n for n in range(count)]
        keys = [names[n] for n in numbers]
        with environment.begin(buffers=True) as transaction:
            yield {
                "LMDB, open transaction": loops.method(transaction.get, keys),
                "LMDB, transaction per get": loops.transactions(environment, keys),
            }
        environment.close()
