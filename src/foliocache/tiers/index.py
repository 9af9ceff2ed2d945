"""The index of a disk tier: which slot has which piece of which object.

It is read and written by system calls, and not mapped: so a failing disk is an error and not SIGBUS, and all processes that see
the folder, in whatever container, see the same index in the kernel's page cache.

A reader takes no lock and believes nothing: what it finds in the table is a place to look, the header there must pass its check
and name the piece, and the bytes must pass the header's CRC. So a writer may die anywhere, and its orders do not matter. What
it leaves are slots that nothing leads to, until the hand comes by; ``checking`` finds them.
"""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeAlias

from . import layout
from .layout import BUCKET, ENTRIES, ENTRY, EXTENT, FULL, HEADER, PAGE, WRITING, Header, Shape, State
from .lock import WriteLock

AROUND = 16  # headers that are read at a time: those of a piece and of the pieces that were probably stored with it
PATIENCE = 1.0  # seconds that a writer waits for others
PACE_MAX = 60_000_000_000  # nanoseconds by which stores can have run ahead of their rate; more is of the time before a reboot


Bucket: TypeAlias = bytes | bytearray


class Busy(Exception):
    """Another process has held the lock of the tier's writers for too long; it may be stopped."""

    def __init__(self) -> None:
        super().__init__(f"another process has been writing to the index for {PATIENCE:g} s; is it stopped?")


class Piece(NamedTuple):
    """A header, and the bytes begin .. end - 1 of its piece that are wanted."""

    header: Header
    begin: int
    end: int


class Index:
    """An open index. ``writable``: False where the file system is read-only."""

    def __init__(self, fd: int, shape: Shape, lock: WriteLock | None) -> None:
        self.fd = fd
        self.shape = shape
        self.lock = lock
        self._seed = shape.seed
        self._headers_at, self._buckets = shape.headers_at, shape.buckets
        self._is_full: bool | None = None  # as it was at the last store; None: not known yet

    # Reading, without a lock.

    def find(self, digest: bytes, offset: int) -> Header | None:
        """Return the header of the piece that begins at an offset of an object; None if there is none."""
        h = layout.mix(digest, offset)
        return self._find_in(self._bucket(self._bucket_at(h)), h >> 32, digest, offset)

    def _find_in(self, bucket: Bucket, tag: int, digest: bytes, offset: int) -> Header | None:
        """``find`` in the bucket of a piece."""
        wanted = tag.to_bytes(4, "little")
        at = bucket.find(wanted)
        while at >= 0:
            if at % ENTRY.size == 4:
                slot = _slot_at(bucket, at - 4)
                found = self.header(slot) if 0 <= slot < self.shape.slots else None
                if _is(found, digest, offset):
                    return found
            at = bucket.find(wanted, at + 1)
        return None

    def header(self, slot: int) -> Header | None:
        """Return the header of a slot; None if it is free or does not pass its check."""
        data = self._read(self._headers_at + slot * HEADER.size, HEADER.size)
        found = layout.unpack_header(data, 0, self._seed)
        return found if found is not None and found.slot == slot and found.length <= self.shape.slot_size else None

    def headers(self, first: int, count: int) -> list[Header | None]:
        """Return the headers of slots in a row, as ``header`` does."""
        count = min(count, self.shape.slots - first)
        data = self._read(self._headers_at + first * HEADER.size, count * HEADER.size)
        found = [layout.unpack_header(data, n * HEADER.size, self._seed) for n in range(count)]
        return [
            each if each is not None and each.slot == first + n and each.length <= self.shape.slot_size else None
            for n, each in enumerate(found)
        ]

    def cover(self, digest: bytes, offset: int, length: int) -> list[Piece]:
        """Return the pieces that a range of an object is made of; an empty list if one is missing."""
        pieces: list[Piece] = []
        end = offset + length
        known: list[Header | None] = []  # the headers of the slots after the last piece's
        while offset < end:
            found = known.pop(0) if known else None
            if not _is(found, digest, offset):
                found = self._around(digest, offset)
                if found is None:
                    return []
                follow = min(AROUND, -(-(end - offset) // self.shape.slot_size)) - 1
                known = self.headers(found.slot + 1, follow) if follow > 0 else []
            assert found is not None
            stop = min(end, found.offset + found.length)
            pieces.append(Piece(found, offset - found.offset, stop - found.offset))
            offset = stop
        return pieces

    def _around(self, digest: bytes, offset: int) -> Header | None:
        """Return the header of a piece that has the byte at an offset. It begins there, or at a place before it that is a
        multiple of a higher power of two, in the same block of the object."""
        step, last = PAGE, -1
        if offset % PAGE:
            return None
        while step <= self.shape.slot_size:
            begin = offset - offset % step
            if begin != last:
                found = self.find(digest, begin)
                if found is not None and begin + found.length > offset:
                    return found
                last = begin
            step *= 2
        return None

    def state(self) -> State:
        """Return the state; after damage, one with which everything goes on."""
        found = layout.unpack_state(self._read(layout.STATE_AT, PAGE), self._seed)
        if found is None or found.hand >= self.shape.slots:
            found = State(0, int.from_bytes(os.urandom(7), "little"), 1)
        self._is_full = bool(found.full)
        return found

    # Use, and what was seen before. These are hints: they race, and are not checked.

    def mark(self, first: int, count: int) -> None:
        """Note that slots in a row were used."""
        at = self.shape.marks_at + first
        if self.lock is not None and b"\0" in self._read(at, count):
            os.pwrite(self.fd, b"\1" * count, at)

    def was_seen(self, digest: bytes, offset: int, length: int) -> bool:
        """Note that a range was missing, and return True if it was missing before, or the tier has room for everything."""
        if self.lock is None:
            return True  # where nothing can be written, the store says so
        if self._is_full is None:
            self.state()
        if not self._is_full:
            return True  # the store that follows looks whether that is still so
        size = self.shape.slot_size
        extent, first = divmod(offset // size, EXTENT)
        count = min(max(-(-length // size), 1), EXTENT - first)
        h = layout.mix(digest, ~extent)
        at = self.shape.ghosts_at + h % self.shape.ghosts + first
        name = 1 + (h >> 40) % 255
        seen = self._read(at, count).count(name)
        if seen < count:
            os.pwrite(self.fd, bytes([name]) * count, at)
        return 2 * seen >= count

    # Writing, under the lock.

    def claim(self, wanted: Sequence[tuple[bytes, int, int, int]]) -> list[Header]:
        """Take slots for pieces (digest, offset, length, CRC) that are not there yet. Return their headers, in state WRITING.

        Nobody else writes to these slots until they are given to ``disown``. Raises Busy, OSError.
        """
        with self.turn() as lock:
            missing = [one for one in wanted if not self._has(*one[:3])]
            state = self.state()
            taken: list[int] = []
            try:
                hand, full = self._take(lock, state.hand, min(len(missing), self.shape.slots // 2), taken)
                self._forget(taken)
                headers = [
                    Header(digest, offset, slot, state.generation, length, crc, WRITING)
                    for slot, (digest, offset, length, crc) in zip(taken, missing, strict=False)
                ]
                self._write_headers(headers)
                after = State(hand, state.generation + 1, int(state.full or full))
                os.pwrite(self.fd, layout.pack_state(after, self._seed), layout.STATE_AT)
                self._is_full = bool(after.full)
            except BaseException:
                self._disown(taken)
                raise
            return headers

    def publish(self, headers: Sequence[Header]) -> None:
        """The slots have their bytes now. What another writer has stored meanwhile is not entered again."""
        with self.turn():
            mine: list[tuple[Header, int, bytearray]] = []
            buckets: dict[int, bytearray] = {}  # by where they are: two pieces may have the same
            for one in self._still(headers):
                h = layout.mix(one.digest, one.offset)
                at = self._bucket_at(h)
                bucket = buckets.get(at) or buckets.setdefault(at, bytearray(self._bucket(at)))
                found = self._find_in(bucket, h >> 32, one.digest, one.offset)
                if found is None or found.length < one.length:
                    mine.append((one, h, bucket))
                    if found is not None:
                        self._free(found)
                        bucket[:] = self._bucket(at)
            self._write_headers([Header(*one[:-1], FULL) for one, _, _ in mine])
            for one, h, bucket in mine:
                self._insert_in(bucket, h, one.slot)

    def disown(self, headers: Sequence[Header]) -> None:
        """Once after each ``claim``, when nothing will be written to the slots any more: others may take them."""
        self._disown([one.slot for one in headers])

    def _disown(self, slots: Sequence[int]) -> None:
        if self.lock is not None:
            for first, count in runs(slots):
                self.lock.disown(first, count)

    def _still(self, headers: Sequence[Header]) -> Iterator[Header]:
        """Yield those of the headers that are in the index."""
        at = 0
        for first, count in runs([one.slot for one in headers]):
            found = self._read(self._headers_at + first * HEADER.size, count * HEADER.size)
            for n, one in enumerate(headers[at : at + count]):
                if found.startswith(layout.pack_header(one, self._seed), n * HEADER.size):
                    yield one
            at += count

    def pace(self, length: int, rate: int) -> float:
        """Note that so many bytes were written. Return the seconds after which all processes together have written no more
        than ``rate`` bytes per second. Raises Busy, OSError."""
        with self.turn():
            now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
            due = layout.unpack_pace(self._read(layout.PACE_AT, 16), self._seed)
            if not now < due < now + PACE_MAX:
                due = now
            due += length * 1_000_000_000 // rate
            os.pwrite(self.fd, layout.pack_pace(due, self._seed), layout.PACE_AT)
        return (due - now) / 1e9

    def drop(self, header: Header) -> bool:
        """Make a slot free whose bytes do not agree with its header, unless a writer is busy. Return True if that was done."""
        if self.lock is None:
            return False
        with self.lock.held(0) as held:
            if held:
                self.drop_held(header)
            return held

    def drop_held(self, header: Header) -> None:
        """``drop``, for a caller that has the lock."""
        if self.header(header.slot) == header:
            self._free(header)

    def settle(self, header: Header) -> None:
        """Under the lock: lead to a full slot, or free it if there is another with the same piece."""
        found = self.find(header.digest, header.offset)
        if found is None:
            self._insert(header)
        elif found.slot != header.slot and found.length >= header.length:
            self._free(header)

    def leads(self, bucket: int, slot: int) -> bool:
        """Return True if an entry of a bucket may lead to a slot."""
        return slot < self.shape.slots and not self._is_stale(layout.TABLE_AT + bucket * BUCKET.size, slot)

    @contextlib.contextmanager
    def turn(self) -> Iterator[WriteLock]:
        """Hold the writers' lock during a ``with``. Raises Busy, OSError."""
        if self.lock is None:
            raise OSError(errno.EROFS, "the tier is on a read-only file system, or this user may not write to it")
        with self.lock.held(PATIENCE) as held:
            if not held:
                raise Busy
            yield self.lock

    def _has(self, digest: bytes, offset: int, length: int) -> bool:
        found = self.find(digest, offset)
        return found is not None and found.length >= length

    def _take(self, lock: WriteLock, hand: int, count: int, taken: list[int]) -> tuple[int, bool]:
        """Walk from the hand on, and append slots to ``taken`` whose mark is not set, and to which nobody is writing. A mark
        that is set is cleared: it saves a slot once.

        Return the new hand, and whether it has been round. There are fewer slots if all others are being written.
        """
        saves = 4 * count + 64  # at most: the walk is short, even if all of a large tier is in use
        steps = 3 * self.shape.slots
        round_once = False
        while len(taken) < count and steps > 0:
            at = self.shape.marks_at + hand
            marks = self._read(at, min(count - len(taken), self.shape.slots - hand))
            chosen = []
            for n, mark in enumerate(marks):
                if mark and saves:
                    saves -= 1
                else:
                    chosen.append(hand + n)
            for first, length in runs(chosen):
                taken += lock.own(first, length)  # not those that were taken before a whole round
            if any(marks):
                os.pwrite(self.fd, bytes(len(marks)), at)
            steps -= len(marks)
            hand += len(marks)
            if hand == self.shape.slots:
                hand, round_once = 0, True
        return hand, round_once

    def _forget(self, slots: Sequence[int]) -> None:
        """Remove what slots have from the table."""
        for first, count in runs(slots):
            for old in self.headers(first, count):
                if old is not None and old.state == FULL:
                    self._remove(old)

    def _write_headers(self, headers: Sequence[Header]) -> None:
        at = 0
        for first, count in runs([one.slot for one in headers]):
            data = b"".join(layout.pack_header(one, self._seed) for one in headers[at : at + count])
            os.pwrite(self.fd, data, self._headers_at + first * HEADER.size)
            at += count

    def _free(self, header: Header) -> None:
        self._remove(header)
        os.pwrite(self.fd, bytes(HEADER.size), self._headers_at + header.slot * HEADER.size)

    def _insert(self, header: Header) -> None:
        """Lead from the table to a slot: in place of an entry that leads nowhere, or else of any other one."""
        h = layout.mix(header.digest, header.offset)
        self._insert_in(bytearray(self._bucket(self._bucket_at(h))), h, header.slot)

    def _insert_in(self, bucket: bytearray, h: int, slot: int) -> None:
        """``_insert`` into the bucket of a piece, which is changed."""
        at, size = self._bucket_at(h), ENTRY.size
        place = next((n for n in range(0, len(bucket), size) if _slot_at(bucket, n) < 0), None)
        if place is None:
            stale = (n for n in range(0, len(bucket), size) if self._is_stale(at, _slot_at(bucket, n)))
            place = next(stale, h % ENTRIES * size)
        bucket[place : place + size] = entry = ENTRY.pack(slot + 1, h >> 32)
        os.pwrite(self.fd, entry, at + place)

    def _is_stale(self, bucket_at: int, slot: int) -> bool:
        found = self.header(slot) if slot < self.shape.slots else None
        return found is None or self._bucket_at(layout.mix(found.digest, found.offset)) != bucket_at

    def _remove(self, header: Header) -> None:
        """Remove the entries that lead to a slot."""
        at = self._bucket_at(layout.mix(header.digest, header.offset))
        bucket = self._bucket(at)
        for n in range(0, len(bucket), ENTRY.size):
            if _slot_at(bucket, n) == header.slot:
                os.pwrite(self.fd, bytes(ENTRY.size), at + n)

    def _bucket_at(self, h: int) -> int:
        return layout.TABLE_AT + h % self._buckets * BUCKET.size

    def _bucket(self, at: int) -> bytes:
        return self._read(at, BUCKET.size)

    def _read(self, at: int, length: int) -> bytes:
        data = os.pread(self.fd, length, at)
        if len(data) < length:
            raise OSError(f"the index of the tier is cut off at byte {at + len(data)}")
        return data


def runs(slots: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield numbers in a row as (first, count)."""
    begin = 0
    for end in range(1, len(slots) + 1):
        if end == len(slots) or slots[end] != slots[end - 1] + 1:
            yield slots[begin], end - begin
            begin = end


def _slot_at(bucket: Bucket, at: int) -> int:
    """Return the slot of the entry at a place of a bucket; -1 if it leads nowhere."""
    return int.from_bytes(bucket[at : at + 4], "little") - 1


def _is(header: Header | None, digest: bytes, offset: int) -> bool:
    return header is not None and header.state == FULL and header.offset == offset and header.digest == digest
