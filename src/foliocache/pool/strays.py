"""Memory without a mark: what a pool's file has in holes, where no client can use it and nothing gives it back.

A client that dies between the kernel's call and the mark leaves some, and the reaper takes it away (``mm.backing.empty``). So
there is none, unless a mark was damaged or a process of another kind has written to the file.

The caller keeps others from giving memory back, so no mark goes while one looks. A client may be giving a hole memory at this
moment: its block is no hole then, and when it is one again, it has the mark. So what is found is looked at twice.

Where the file system gives more at once than a chunk (huge pages, to a small pool, or one that was made before), a chunk's
neighbours get memory with it, and keep it when it has lost its own. That is no finding, and given back by ``trim``, too.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from ..mm import backing, layout, page_alloc
from ..observe.records import Finding
from . import headroom
from .attachment import LOOK_AGAIN, SCAN_WAIT

if TYPE_CHECKING:
    from .attachment import Attachment
    from .segment import Segment


def findings(segment: Segment) -> list[Finding]:
    """Return a finding if there is such memory; none if the kernel cannot say where a file has memory (before Linux 6.5)."""
    found = [] if come_with_others(segment) else _find(segment)
    if not found:
        return []
    size = sum(_resident(segment, pfn, _step(segment)) for pfn in found)
    return [Finding("backing", "file", f"has {size} bytes of memory in holes, which no mark says, from page {found[0]} on")]


def come_with_others(segment: Segment) -> bool:
    """Return True if the file system gives more at once than a chunk."""
    return headroom.unit(segment.fd) > segment.chunk


def give_back(attachment: Attachment) -> None:
    """Give such memory back, as far as other processes let this one. The caller scans nothing."""
    segment = attachment.segment
    deadline = time.monotonic() + SCAN_WAIT
    chunk = segment.chunk // segment.page_size
    for first in _find(segment):
        for pfn in range(first, first + _step(segment), chunk):
            while page_alloc.is_hole(segment.mem, pfn) and _resident(segment, pfn, chunk) and time.monotonic() < deadline:
                if attachment.empty_hole(pfn):
                    break
                time.sleep(LOOK_AGAIN)


def _find(segment: Segment) -> list[int]:
    """Return the first page of each step that has memory and no mark."""
    return [pfn for pfn in _places(segment) if _is_stray(segment, pfn) and _is_stray(segment, pfn)]


def _places(segment: Segment) -> Iterator[int]:
    """Yield the first page of each step without a mark, in runs of which the kernel says that they have memory."""
    step = _step(segment)
    end = min(segment.memory.peek32(layout.PAGES_DESCRIBED), segment.geometry["npages"]) // step * step
    begin = None
    for pfn in range(0, end + step, step):
        if pfn < end and not _is_marked(segment, pfn):
            begin = pfn if begin is None else begin
        elif begin is not None:
            yield from _with_memory(segment, begin, pfn)
            begin = None


def _with_memory(segment: Segment, begin: int, end: int) -> Iterator[int]:
    """Yield the first page of each step in a run that has memory: by halves, because most runs have none."""
    step = _step(segment)
    if not _resident(segment, begin, end - begin):
        return
    if end - begin == step:
        yield begin
        return
    middle = begin + (end - begin) // step // 2 * step
    yield from _with_memory(segment, begin, middle)
    yield from _with_memory(segment, middle, end)


def _is_stray(segment: Segment, pfn: int) -> bool:
    chunks = range(pfn, pfn + _step(segment), segment.chunk // segment.page_size)
    return (
        all(page_alloc.is_hole(segment.mem, chunk) for chunk in chunks)
        and not _is_marked(segment, pfn)
        and _resident(segment, pfn, _step(segment)) > 0
        and all(page_alloc.is_hole(segment.mem, chunk) for chunk in chunks)
        and not _is_marked(segment, pfn)
    )


def _is_marked(segment: Segment, pfn: int) -> bool:
    """Return True if a chunk of a step has a mark."""
    return any(
        backing.is_marked(segment.mem, chunk) for chunk in range(pfn, pfn + _step(segment), segment.chunk // segment.page_size)
    )


def _step(segment: Segment) -> int:
    """Return the pages of a chunk, or of what the file system gives at once, if that is more."""
    return max(segment.chunk, headroom.unit(segment.fd)) // segment.page_size


def _resident(segment: Segment, pfn: int, pages: int) -> int:
    """Return the bytes of memory that pages have; 0 if the kernel cannot say."""
    at = segment.geometry["data"] + pfn * segment.page_size
    return headroom.resident(segment.fd, at, pages * segment.page_size) or 0
