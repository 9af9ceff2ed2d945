"""The files of a disk tier, byte by byte. docs/tiers.md shows them, and says why.

``index`` has, from page boundaries on: the superblock, the state, the table (where a piece is), the ghosts (what was seen
before), the marks (which slots were used) and the headers (what a slot has). ``slots`` has the slots, and nothing else.

Everything is little-endian. What one process writes, another may be reading, and a power failure may keep any 512 bytes of it:
a record has a check, and what does not pass its check is not there.
"""

from __future__ import annotations

import struct
import zlib
from typing import NamedTuple

from ..sizes import format_size

PAGE = 4096  # also the alignment of O_DIRECT
MAGIC = b"foliotr1"
SLOT = 64 << 10  # bytes of a slot, if the user does not say
SLOT_MIN, SLOT_MAX = 4 << 10, 1 << 20
SLOTS_MIN = 16
EXTENT_BYTES = 16  # of the file system's own, for each slot, if all of them are extents
RESERVE = 16 * PAGE  # for the folder, the lock and the file system's first blocks

STATE_AT = PAGE
PACE_AT = STATE_AT + 512
TABLE_AT = 2 * PAGE
ENTRY = struct.Struct("<II")  # the slot + 1, or 0; and 32 bits of the key's hash
BUCKET = struct.Struct("<32I")  # 16 entries
ENTRIES = 16
SLOTS_PER_BUCKET = 4  # so an entry finds its bucket full once in a million times
GHOSTS_PER_SLOT = 4
EXTENT = 16  # slots; the ghosts of so many pieces in a row lie side by side

HEADER = struct.Struct("<16sQQQIII8xI")
_HEAD = struct.Struct("<16sQQQIII8x")
FREE, WRITING, FULL = 0, 1, 2
_SUPER = struct.Struct("<8sQQ16sI")
_STATE = struct.Struct("<QQII")  # hand, generation, full, check
_PACE = struct.Struct("<QI")  # nanoseconds, check

_ALL = (1 << 64) - 1
_DIGEST = struct.Struct("<QQ")


class Header(NamedTuple):
    """What a slot has: ``length`` bytes of an object from ``offset`` on, and their CRC-32C."""

    digest: bytes
    offset: int
    slot: int
    generation: int
    length: int
    crc: int
    state: int


class State(NamedTuple):
    """Where the next piece goes (``hand``), the number of the next writer, and whether the hand has been round once."""

    hand: int
    generation: int
    full: int


class Shape(NamedTuple):
    """The numbers that follow from a tier's size."""

    slot_size: int
    slots: int
    tier_id: bytes

    @property
    def buckets(self) -> int:
        return self.slots // SLOTS_PER_BUCKET + 1

    @property
    def ghosts(self) -> int:
        return self.slots * GHOSTS_PER_SLOT

    @property
    def ghosts_at(self) -> int:
        return _after(TABLE_AT, self.buckets * BUCKET.size)

    @property
    def marks_at(self) -> int:
        return _after(self.ghosts_at, self.ghosts + EXTENT)

    @property
    def headers_at(self) -> int:
        return _after(self.marks_at, self.slots)

    @property
    def index_bytes(self) -> int:
        return _after(self.headers_at, self.slots * HEADER.size)

    @property
    def slots_bytes(self) -> int:
        return self.slots * self.slot_size

    @property
    def seed(self) -> int:
        """With what the checks of this tier begin, so that another tier's headers do not pass."""
        return zlib.crc32(self.tier_id)


def _after(at: int, length: int) -> int:
    return -(-(at + length) // PAGE) * PAGE


def check(size: int | None, slot: int | None) -> None:
    """Raise ValueError for a size, or a size of slots, that no tier can have."""
    slot_size = SLOT if slot is None else slot
    if slot_size & (slot_size - 1) or not SLOT_MIN <= slot_size <= SLOT_MAX:
        raise ValueError(
            f"the slots of a tier have a power of two bytes from {format_size(SLOT_MIN)} to {format_size(SLOT_MAX)}"
        )
    if size is not None and slots_for(size, slot_size) < SLOTS_MIN:
        least = SLOTS_MIN * (slot_size + 256) + 8 * PAGE + RESERVE
        raise ValueError(f"a tier with slots of {format_size(slot_size)} needs a size of {format_size(least)} or more")


def slots_for(size: int, slot_size: int) -> int:
    """Return how many slots a tier may have whose files together have at most ``size`` bytes."""
    each = slot_size + HEADER.size + BUCKET.size / SLOTS_PER_BUCKET + GHOSTS_PER_SLOT + 1 + EXTENT_BYTES
    size -= RESERVE
    slots = max(int(size / each), 0)
    while slots and (shape := Shape(slot_size, slots, b"")).index_bytes + shape.slots_bytes + slots * EXTENT_BYTES > size:
        slots -= 1
    return slots


def pack_super(shape: Shape) -> bytes:
    head = _SUPER.pack(MAGIC, shape.slot_size, shape.slots, shape.tier_id, 0)[:-4]
    return head + zlib.crc32(head).to_bytes(4, "little")


def unpack_super(data: bytes) -> Shape | None:
    """Return the shape that a superblock describes; None if it is none."""
    if len(data) < _SUPER.size:
        return None
    magic, slot_size, slots, tier_id, crc = _SUPER.unpack_from(data)
    if magic != MAGIC or crc != zlib.crc32(data[: _SUPER.size - 4]):
        return None
    return Shape(slot_size, slots, tier_id)


def pack_state(state: State, seed: int) -> bytes:
    head = _STATE.pack(*state, 0)[:-4]
    return head + zlib.crc32(head, seed).to_bytes(4, "little")


def unpack_state(data: bytes, seed: int) -> State | None:
    if len(data) < _STATE.size:
        return None
    *words, crc = _STATE.unpack_from(data)
    return State(*words) if crc == zlib.crc32(data[: _STATE.size - 4], seed) else None


def pack_pace(due: int, seed: int) -> bytes:
    head = due.to_bytes(8, "little")
    return head + zlib.crc32(head, seed).to_bytes(4, "little")


def unpack_pace(data: bytes, seed: int) -> int:
    """Return when the next store may begin, in nanoseconds since the machine was started; 0 if it is not known."""
    due, crc = _PACE.unpack_from(data)
    return int(due) if crc == zlib.crc32(data[:8], seed) else 0


def pack_header(header: Header, seed: int) -> bytes:
    head = _HEAD.pack(*header)
    return head + zlib.crc32(head, seed).to_bytes(4, "little")


def unpack_header(data: bytes, at: int, seed: int) -> Header | None:
    """Return the header at a place in data; None if it does not pass its check."""
    *words, crc = HEADER.unpack_from(data, at)
    if not words[-1] or crc != zlib.crc32(data[at : at + HEADER.size - 4], seed):
        return None
    return Header._make(words)


def mix(digest: bytes, number: int) -> int:
    """Return 64 bits that follow from a digest and a number."""
    low, high = _DIGEST.unpack(digest)
    h: int = (low ^ high * 0x9E3779B97F4A7C15 ^ number * 0xC2B2AE3D27D4EB4F) & _ALL
    h = (h ^ h >> 31) * 0x9FB21C651E98DF25 & _ALL
    return h ^ h >> 28
