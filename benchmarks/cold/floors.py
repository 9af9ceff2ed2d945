"""What an object costs without a cache: the bytes go from the network into plain shared memory, by as many threads."""

from __future__ import annotations

import mmap
import os
import socket
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

import numpy as np

from benchmarks.cold.ways import Obstore
from benchmarks.common.pools import MIB

HUGE_PAGE = 2 * MIB
HEAD_MAX = 4096  # bytes of nginx's status line and header fields


@contextmanager
def pages(size: int, touched: bool) -> Iterator[mmap.mmap]:
    """Shared memory as a pool has it. touched: this process has written to all of it before."""
    descriptor = os.memfd_create("bench-cold")
    try:
        os.ftruncate(descriptor, size)
        memory = mmap.mmap(descriptor, size)
    finally:
        os.close(descriptor)
    try:
        if touched:
            np.frombuffer(memory, np.uint8)[:] = 1
        yield memory
    finally:
        memory.close()


def have_backed(size: int) -> None:
    """Touch so many bytes of fresh memory, in small pages and then in huge ones, and free them: the next that are allocated are
    likely to be these.

    A virtual machine may have given free memory back to its host (free page reporting). The first touch of a page then costs a
    fault of the host, some 11 us here, which says nothing of who is measured, and depends on what ran before.
    """
    with pages(size, touched=True):
        pass
    with mmap.mmap(-1, size + HUGE_PAGE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory, suppress(OSError):
        memory.madvise(mmap.MADV_HUGEPAGE)
        np.frombuffer(memory, np.uint8)[:: mmap.PAGESIZE] = 1


class Copied(Obstore):
    """obstore's answers, copied into given memory, without the GIL, by the threads that got them."""

    def __init__(self, size: int, at_once: int, length: int, memory: mmap.mmap):
        super().__init__(size, at_once, length)
        self.name += ", copied into used pages"
        self._memory = memory

    def whole(self, url: str) -> int:
        store, path = self.store(url)
        target = np.frombuffer(self._memory, np.uint8)

        def read(start: int) -> int:
            found = store.get_range(path, start=start, end=min(start + self.length, self.size))
            np.copyto(target[start : start + len(found)], np.frombuffer(found, np.uint8))
            return len(found)

        return sum(self.threads.map(read, range(0, self.size, self.length)))


class Sockets:
    """Ranged GETs over plain sockets that are kept open: nothing is parsed or checked but the length."""

    def __init__(self, size: int, at_once: int, length: int):
        self.size, self.length = size, length
        self.threads = ThreadPoolExecutor(at_once)
        self.name = f"sockets, {at_once} x {length // MIB} MiB"
        self._idle: deque[socket.socket] = deque()

    def whole(self, url: str, memory: mmap.mmap) -> int:
        """Read all of it into memory. Return how many bytes came."""
        parts = urlsplit(url)
        place = (str(parts.hostname), int(parts.port or 80))
        with memoryview(memory) as view:

            def read(start: int) -> int:
                end = min(start + self.length, self.size)
                with view[start:end] as piece:
                    return self._range(place, parts.path, start, piece)

            return sum(self.threads.map(read, range(0, self.size, self.length)))

    def _range(self, place: tuple[str, int], path: str, start: int, piece: memoryview) -> int:
        try:
            connection = self._idle.pop()
        except IndexError:
            connection = socket.create_connection(place)
        last = start + len(piece) - 1
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {place[0]}\r\nRange: bytes={start}-{last}\r\n\r\n".encode())
        data = b""
        while (end := data.find(b"\r\n\r\n")) < 0:
            got = connection.recv(HEAD_MAX)
            if not got:
                raise ConnectionError("the server closed the connection")
            data += got
        ahead = data[end + 4 :]
        piece[: len(ahead)] = ahead
        with piece[len(ahead) :] as rest:
            got_bytes = connection.recv_into(rest, 0, socket.MSG_WAITALL) if rest else 0
        self._idle.append(connection)
        return len(ahead) + got_bytes

    def close(self) -> None:
        """Close the connections."""
        self.threads.shutdown()
        with suppress(IndexError):
            while True:
                self._idle.pop().close()
