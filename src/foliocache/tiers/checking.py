"""Checking a disk tier: what no order of writes, and no death of a writer, can leave. Everything found is harmless to readers.

What a dead writer can leave is settled first: a full slot to which nothing leads is entered into the table.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from ..observe.records import Finding
from . import layout
from .layout import BUCKET, ENTRIES, ENTRY, FULL, HEADER, Header

if TYPE_CHECKING:
    from .disk import DiskTier

CHUNK = 4096  # slots, or buckets, that are looked at while the writers wait


class Held(NamedTuple):
    """What a tier has of one object: the digest, in hex, how many pieces, and their bytes."""

    digest: str
    pieces: int
    bytes: int


class TierUse(NamedTuple):
    """How much of a disk tier is used.

    Attributes
    ----------
    path : str
        Its folder.
    file_bytes : int
        Bytes of its files.
    slot_size, slots : int
        Bytes of a slot, and how many there are.
    full_slots, writing_slots, used_slots : int
        Those that have a piece, those for which a writer has not finished (or has died), and those of the full ones that were
        read since the hand came by last.
    pieces_bytes : int
        Bytes of all pieces. The rest of their slots is unused.
    objects : int
        How many objects, at one version each, they belong to.
    is_round : bool
        True if the hand has been round once: from then on, only what is missed twice is stored.
    is_direct : bool
        True if the kernel's page cache is bypassed.
    """

    path: str
    file_bytes: int
    slot_size: int
    slots: int
    full_slots: int
    writing_slots: int
    used_slots: int
    pieces_bytes: int
    objects: int
    is_round: bool
    is_direct: bool


def held(tier: DiskTier) -> list[Held]:
    """List the objects of which a tier has pieces, those with the most bytes first."""
    found: dict[bytes, tuple[int, int]] = {}
    for header in _full(tier):
        pieces, total = found.get(header.digest, (0, 0))
        found[header.digest] = pieces + 1, total + header.length
    objects = [Held(digest.hex(), *each) for digest, each in found.items()]
    return sorted(objects, key=lambda one: (-one.bytes, one.digest))


def use(tier: DiskTier) -> TierUse:
    """Return how much of a tier is used."""
    full = writing = total = used = 0
    objects = set()
    for first, headers in _chunks(tier):
        marks = os.pread(tier.index.fd, len(headers), tier.shape.marks_at + first)
        for header, mark in zip(headers, marks, strict=True):
            if header is not None and header.state == FULL:
                full += 1
                used += bool(mark)
                total += header.length
                objects.add(header.digest)
            elif header is not None:
                writing += 1
    return TierUse(
        tier.path,
        tier.shape.index_bytes + tier.shape.slots_bytes,
        tier.shape.slot_size,
        tier.shape.slots,
        full,
        writing,
        used,
        total,
        len(objects),
        bool(tier.index.state().full),
        tier.is_direct,
    )


def check(tier: DiskTier, repair: bool, data: bool) -> list[Finding]:
    """Return what is wrong in a tier. repair: drop it, too. data: read all slots.

    Raises Busy if a writer has stopped, and OSError.
    """
    findings = [*_check_state(tier, repair), *_check_headers(tier, repair), *_check_table(tier, repair)]
    return [*findings, *_check_data(tier, repair)] if data else findings


def _check_state(tier: DiskTier, repair: bool) -> Iterator[Finding]:
    index = tier.index
    with _turn(tier):
        said = layout.unpack_state(os.pread(index.fd, layout.PAGE, layout.STATE_AT), tier.shape.seed)
        if said is None or said.hand >= tier.shape.slots:
            yield Finding("state", tier.path, "the state does not pass its check; the hand begins again")
            if repair:
                os.pwrite(index.fd, layout.pack_state(index.state(), tier.shape.seed), layout.STATE_AT)


def _check_headers(tier: DiskTier, repair: bool) -> Iterator[Finding]:
    index, shape = tier.index, tier.shape
    for first in range(0, shape.slots, CHUNK):
        with _turn(tier):
            count = min(CHUNK, shape.slots - first)
            data = os.pread(index.fd, count * HEADER.size, shape.headers_at + first * HEADER.size)
            for n, header in enumerate(index.headers(first, count)):
                at = n * HEADER.size
                if header is None and any(data[at : at + HEADER.size]):
                    yield Finding("header", f"slot {first + n}", "the header does not pass its check; the slot counts as free")
                    if repair:
                        os.pwrite(index.fd, bytes(HEADER.size), shape.headers_at + first * HEADER.size + at)
                elif header is not None and header.state == FULL and index.lock is not None:
                    index.settle(header)


def _check_table(tier: DiskTier, repair: bool) -> Iterator[Finding]:
    index, shape = tier.index, tier.shape
    for first in range(0, shape.buckets, CHUNK // 16):
        with _turn(tier):
            count = min(CHUNK // 16, shape.buckets - first)
            data = os.pread(index.fd, count * BUCKET.size, layout.TABLE_AT + first * BUCKET.size)
            for bucket, words in enumerate(BUCKET.iter_unpack(data), first):
                for n in range(ENTRIES):
                    if words[2 * n] and not index.leads(bucket, words[2 * n] - 1):
                        yield Finding(
                            "table", f"bucket {bucket}", f"entry {n} leads to slot {words[2 * n] - 1}, which is another's"
                        )
                        if repair:
                            os.pwrite(index.fd, bytes(ENTRY.size), layout.TABLE_AT + bucket * BUCKET.size + n * ENTRY.size)


def _check_data(tier: DiskTier, repair: bool) -> Iterator[Finding]:
    for header in _full(tier):
        if not tier.has_right_bytes(header) and tier.index.header(header.slot) == header:  # it is the same still
            yield Finding("data", f"slot {header.slot}", "the bytes do not pass their CRC; to readers it is a miss")
            if repair:
                with _turn(tier):
                    tier.index.drop_held(header)


@contextlib.contextmanager
def _turn(tier: DiskTier) -> Iterator[None]:
    """Keep writers out, where there can be any."""
    if tier.index.lock is None:
        yield
    else:
        with tier.index.turn():
            yield


def _chunks(tier: DiskTier) -> Iterator[tuple[int, list[Header | None]]]:
    for first in range(0, tier.shape.slots, CHUNK):
        yield first, tier.index.headers(first, CHUNK)


def _full(tier: DiskTier) -> Iterator[Header]:
    for _, headers in _chunks(tier):
        yield from (header for header in headers if header is not None and header.state == FULL)
