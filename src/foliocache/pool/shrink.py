"""Giving a pool's memory back to the kernel, in pieces: free blocks first, then cold folios (``mm.trim``)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..errors import FoliocacheError
from ..mm import backing, layout, page_alloc
from .attachment import LOOK_AGAIN, SCAN_WAIT

if TYPE_CHECKING:
    from .attachment import Attachment

PIECE = 4 << 20  # bytes that are given back in one call, which has the GIL
BATCH = 256  # pages that are evicted in one call
TOLERANCE = 1 / 16  # of a time without use: one who calls once a minute does so a little early at times
IDLE_MAX = 72 * 3600.0  # seconds


def to_limit(attachment: Attachment) -> int:
    """Give back what the pool has above its size, by evicting. Return how many pages are still above it, because they are in
    use."""
    mem = attachment.memory.handle
    while (above := page_alloc.backed_pages(mem) - backing.limit(mem)) > 0:
        if give_back(attachment, above) == 0:
            return above
    return 0


def give_back(attachment: Attachment, pages: int) -> int:
    """Give as many pages back, or a few more: memory is given back in chunks. Return how many have been given back."""
    given = free_blocks(attachment, pages)
    evicted = 0
    while given < pages and evicted < pages:
        freed = attachment.evict(min(pages - given, BATCH))
        if freed == 0:
            break
        evicted += freed
        given += free_blocks(attachment, pages - given)
    while given < pages and attachment.evict_chunk():
        given += free_blocks(attachment, pages - given)
    return given


def give_back_idle(attachment: Attachment, seconds: float, pages: int | None = None) -> int:
    """Give back what is free, and then the pages of folios that were not used for so many seconds: as many pages, or all for
    None. Return how many have been given back."""
    segment = attachment.segment
    most = segment.geometry["npages"]
    wanted = most if pages is None else pages
    least = max(1, int(seconds * (1 - TOLERANCE) * 1e9 / (1 << layout.SEEN_TICK_SHIFT)) - 2)
    given = free_blocks(attachment, wanted)
    freed = pfn = 0
    while given < wanted and pfn < min(segment.memory.peek32(layout.PAGES_DESCRIBED), most):
        got, pfn = attachment.evict_idle(pfn, min(wanted - given, most), least)
        freed += got
        if freed >= min(wanted - given, PIECE // segment.page_size):
            given += free_blocks(attachment, wanted - given)
            freed = 0
    return given + free_blocks(attachment, wanted - given) if given < wanted else given


def free_blocks(attachment: Attachment, pages: int | None = None) -> int:
    """Give free blocks of at least as many pages back; all, for None. Return how many pages there were."""
    mem, page_size = attachment.memory.handle, attachment.segment.page_size
    chunk = 1 << backing.chunk_order(mem)
    given = 0
    deadline = time.monotonic() + SCAN_WAIT
    while pages is None or given < pages:
        most = PIECE // page_size if pages is None else min(pages - given, PIECE // page_size)
        got = attachment.give_back(max(most, chunk))
        if got > 0:
            given += got
            deadline = time.monotonic() + SCAN_WAIT
        elif got == 0:
            break
        elif time.monotonic() > deadline:
            raise FoliocacheError(
                f"pool {attachment.segment.name!r} cannot give memory back: another process scans it, or has stopped in "
                "the middle of an operation; see `foliocache stat`"
            )
        else:
            time.sleep(LOOK_AGAIN)
    return given
