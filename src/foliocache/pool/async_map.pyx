"""The compiled part of reads in event loops: what is cached is given at once, anything else is a `Miss` to be awaited.

Nothing here waits, takes a lock or calls a source: what might is done by the miss, in other threads.
"""
cimport cython
from cpython.buffer cimport PyBuffer_Release
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.memoryview cimport PyMemoryView_FromObject
from libc.stdint cimport uint32_t as u32, uint64_t as u64
from libc.string cimport memcpy

from .lease cimport FolioMap, Lease, new_lease
from ..filler.awaited cimport new_miss, read_ahead
from ..filler.buffers cimport get_writable
from ..mm cimport atomics, fill, layout
from ..mm.atomics cimport fc_mem
from ..mm.inline cimport client, filemap, flags, page_type

cdef u64 COPY_MAX = 1 << 20  # bytes that are copied before other tasks have their turn


cdef class AsyncMap(FolioMap):
    """A mapping's reads as far as they go without waiting."""

    cdef object _look(self, u64 index, u64 wanted):
        """A `Lease` on unit index and what its folio has behind it; or a `Miss`, which reads up to ``wanted`` units at once."""
        cdef u32 entry, pfn, seen
        cdef u64 at, first, behind
        cdef Lease lease
        wanted = min(wanted, self.most)
        if not self.attachment.joined:
            self._check()
            return new_miss(self.filler, self, index, wanted, None)  # to become a client takes locks
        entry = self.attachment.take()
        if entry == layout.NIL:
            lease = self._copy_cached(index)
            return new_miss(self.filler, self, index, wanted, None) if lease is None else lease
        pfn = filemap.lookup(self.mem, self.attachment.me, entry, self.ino, self.head, self.height, index)
        if pfn == layout.NIL:
            self.attachment.give(entry)
            return new_miss(self.filler, self, index, wanted, None)
        lease = new_lease()
        if not self._bind_units(lease, entry, pfn, index):
            return new_miss(self.filler, self, index, wanted, None)
        at = atomics.folio_at(self.mem, pfn)
        seen = flags.load(self.mem, at)
        if not seen & layout.PG_UPTODATE:
            return new_miss(self.filler, self, index, wanted, lease)
        if not self._is_ours(at):
            return new_miss(self.filler, self, index, wanted, None)
        flags.mark_referenced(self.mem, at, seen)
        client.count(self.mem, self.attachment.me, layout.COUNT_HITS, 1)
        self.previous = index + min(wanted, self._units(lease.length)) - 1
        if seen & layout.PG_READAHEAD:
            first = filemap.first_of(self.mem, pfn)
            behind = first + (<u64>1 << page_type.span(self.mem, pfn))
            if self.filler.has_reached(first, behind, self.previous) and flags.clear(self.mem, at, layout.PG_READAHEAD):
                read_ahead(self.filler, self, first, behind)
        return lease

    def _look_view(self, offset, length):
        """A range as far as it is in one folio: a memoryview; or a `Miss` for its first folio; or None if it is in several."""
        cdef u64 start = self._clip(offset, "offset")
        cdef u64 end = start + min(self._clip(length, "length"), self.size - start)
        cdef u64 first
        if start == end:
            self._check()
            return memoryview(b"")
        first = start >> self.shift
        found = self._look(first, self._units(end - (first << self.shift)))
        return self._view(found, start, end) if type(found) is Lease else found

    def _view_of(self, Lease lease not None, offset, length):
        """The same of a lease that was awaited: a memoryview, or None."""
        cdef u64 start = self._clip(offset, "offset")
        return self._view(lease, start, start + min(self._clip(length, "length"), self.size - start))

    cdef object _view(self, Lease lease, u64 start, u64 end):
        cdef u64 begin = start - (start >> self.shift << self.shift)
        if begin + end - start > <u64>lease.length:
            return None
        lease.data += begin
        lease.length = end - start
        return PyMemoryView_FromObject(lease)

    def _look_bytes(self, offset, length):
        """A range if it is cached in one unit: bytes; else a `Gather` of it."""
        cdef u64 start = self._clip(offset, "offset")
        cdef u64 end = start + min(self._clip(length, "length"), self.size - start)
        cdef u64 first = start >> self.shift
        cdef u64 begin = start - (first << self.shift)
        cdef Lease lease
        cdef Gather gather
        found = None
        if start == end:
            self._check()
            return b""
        if begin + end - start <= self.unit_size:
            found = self._look(first, 1)
            if type(found) is Lease:
                lease = found
                copy = PyBytes_FromStringAndSize(lease.data + begin, end - start)
                lease.release()
                return copy
        gather = Gather.__new__(Gather)
        gather.copy = PyBytes_FromStringAndSize(NULL, end - start)
        gather.begin(self, start, end, PyBytes_AS_STRING(gather.copy), found)
        return gather

    def _look_into(self, offset, buffer):
        """A `Gather` that fills a buffer."""
        cdef u64 start = self._clip(offset, "offset")
        cdef Gather gather = Gather.__new__(Gather)
        get_writable(buffer, &gather.buffer)
        gather.has_buffer = True
        self._check()
        gather.begin(self, start, start + min(<u64>gather.buffer.len, self.size - start), <char *>gather.buffer.buf, None)
        return gather

    def _look_lease(self, offset, length):
        """What ``lease(offset, length)`` gives; or a `Miss`, for `_trim`."""
        cdef u64 start = self._clip(offset, "offset")
        cdef u64 index = start >> self.shift
        cdef u64 wanted = 1
        self._check()
        if start >= self.size:
            raise IndexError(f"byte {offset} of an object of {self.size}")
        if length is not None:
            wanted = self._clip(length, "length")
            if wanted == 0:
                raise ValueError("a lease has at least 1 byte; read(offset, 0) gives an empty view")
            wanted = self._units(start - (index << self.shift) + min(wanted, self.size - start))
        found = self._look(index, wanted)
        return self._trim(found, offset, length) if type(found) is Lease else found

    cpdef _trim(self, Lease lease, offset, length):
        """Let a lease that begins at a unit begin at offset, and have ``length`` bytes at most."""
        cdef u64 start = self._clip(offset, "offset")
        cdef u64 begin = start - (start >> self.shift << self.shift)
        cdef u64 most = self.size if length is None else self._clip(length, "length")
        lease.data += begin
        lease.length = min(<u64>lease.length - begin, most)
        return lease

    cdef u32 *sleeper(self, lease, u32 *seen) noexcept:
        cdef Lease waiting = lease
        seen[0] = fill.begin_wait(self.mem, waiting.pfn)
        if not seen[0] & layout.PG_LOCKED:
            return NULL
        return <u32 *>((<const fc_mem *>self.mem).base + atomics.folio_at(self.mem, waiting.pfn) + layout.F_FLAGS)


@cython.final
@cython.auto_pickle(False)
cdef class Gather:
    """A range of an object on its way to one buffer, folio by folio."""
    cdef AsyncMap mapping
    cdef object copy, miss
    cdef Py_buffer buffer
    cdef bint has_buffer
    cdef char *target
    cdef u64 start, at, end

    def __init__(self):
        raise TypeError("a range is gathered by a mapping")

    def __dealloc__(self):
        self._release()

    cdef int begin(self, AsyncMap mapping, u64 start, u64 end, char *target, miss) except -1:
        self.mapping, self.start, self.at, self.end, self.target, self.miss = mapping, start, start, end, target, miss
        return 0

    cdef int _release(self) noexcept:
        if self.has_buffer:
            self.has_buffer = False
            PyBuffer_Release(&self.buffer)
        return 0

    @property
    def result(self):
        """The bytes; or, where it fills a buffer, how many those are."""
        return self.end - self.start if self.copy is None else self.copy

    def step(self):
        """Copy what is cached. Returns a `Miss` for what is behind; None if other tasks should have their turn; or True at the
        end."""
        cdef u64 turn = self.at + COPY_MAX
        cdef u64 index
        miss, self.miss = self.miss, None
        if miss is not None:
            return miss
        while self.at < self.end:
            if self.at >= turn:
                return None
            index = self.at >> self.mapping.shift
            found = self.mapping._look(index, self.mapping._units(self.end - (index << self.mapping.shift)))
            if type(found) is not Lease:
                return found
            self.take(found)
        return True

    cpdef take(self, Lease lease):
        """Copy from the folio at which ``step`` has arrived."""
        cdef u64 begin = self.at - (self.at >> self.mapping.shift << self.mapping.shift)
        cdef u64 length = min(<u64>lease.length - begin, self.end - self.at)
        memcpy(self.target + (self.at - self.start), lease.data + begin, length)
        self.at += length
        lease.release()

    def close(self):
        """Let the buffer go."""
        self._release()
