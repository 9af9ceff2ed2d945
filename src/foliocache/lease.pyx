"""Pins as Python objects: the hit path.

A hit is one crossing into C: :meth:`FolioMap.lease` walks, gets, looks again (``mm.filemap.find_get``), reads the flags, and
hands out a :class:`Lease`, which holds the pin and exports the folio's bytes through the buffer protocol. Whatever is not a
plain hit goes to the methods ``_miss`` and ``_wait`` of the Python class on top (``mapping.Mapping``).

While a folio is being filled, the lease of its filler also stands for that duty (``filling``): let go before ``_complete``, on
whatever exception, it withdraws the folio and wakes those who wait, so no way out of a fill leaves a locked folio behind.

Every pin is written down in the process's ledger (``mm.client``), so that it can be given back should the process be killed; a
lease knows which word is its own. Every call into the core below is one *operation*: no Python runs between ``enter`` and
``leave``, and the GIL is held, so that a process has one at a time. What may take long (the source, waiting for another filler)
is between them.

A lease whose views are still in use cannot give its pin back: ``release`` then only refuses new views, and the last view's end
drops the pin. So ``numpy.frombuffer(lease)`` outlives a ``with`` block without any care.
"""
cimport cython
from cpython.buffer cimport PyBuffer_FillInfo, PyBUF_WRITE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory, PyMemoryView_FromObject
from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyObject, PyTypeObject, destructor
from libc.stdint cimport int64_t, uint32_t as u32, uint64_t as u64

from .attachment cimport Attachment, spare
from .mm cimport atomics, fill, layout, mapping, vmscan
from .mm.atomics cimport fc_mem, mem_t
from .mm.inline cimport client, filemap, flags, folio

cdef extern from *:
    void prefetch "__builtin_prefetch" (const void *)

from .errors import LeaseError

@cython.final
@cython.no_gc
@cython.freelist(256)
cdef class Lease:
    """A pin on one folio, and its bytes: a read-only buffer of ``len(lease)`` bytes. ``lease[0]`` is the first, as an int.

    Use it as a context manager, call :meth:`release`, or let it go. While a view of it lives (``memoryview(lease)``,
    ``numpy.frombuffer(lease)``) its bytes stay mapped and pinned. Asking for a writable buffer raises BufferError; using a
    released lease, or one inherited by fork, raises LeaseError (a ValueError).
    """
    def __init__(self):
        raise TypeError("leases come from Mapping.lease()")

    def __len__(self):
        return self.length

    def __getitem__(self, key):
        """``lease[n]`` is a byte, as an int; ``lease[a:b]`` a memoryview."""
        cdef Py_ssize_t n
        if not isinstance(key, int):
            return memoryview(self)[key]
        self._check()
        n = key
        if n < 0:
            n += self.length
        if not 0 <= n < self.length:
            raise IndexError(f"byte {key} of a lease of {self.length}")
        return <unsigned char>self.data[n]

    cdef int _check(self) except -1:
        if self.released:
            raise LeaseError("this lease has been released; take another one")
        if self.epoch != self.attachment.epoch:
            raise LeaseError("this lease was inherited by fork and belongs to the parent process; take another one here")
        return 0

    def __getbuffer__(self, Py_buffer *buffer, int wanted):
        self._check()
        PyBuffer_FillInfo(buffer, self, <void *>self.data, self.length, 1, wanted)
        self.views += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        self._end_view()

    def __enter__(self):
        return self

    def __exit__(self, kind, value, traceback):
        self.release()

    def __repr__(self):
        state = "released" if self.released else "private" if self.private is not None else f"pfn {self.pfn}"
        return f"<Lease of {self.length} bytes, {state}>"

    @property
    def cached(self):
        """False for bytes that were read privately because every page was in use."""
        return self.private is None

    def release(self):
        """Give the pin back, now or when the last view of it goes. Doing it twice is harmless."""
        if not self.released:
            self.released = True
            if self.filling and self.epoch == self.attachment.epoch:
                self._fail()
            if self.views == 0:
                self._drop()

    cdef void _end_view(self) noexcept:
        self.views -= 1
        if self.released and self.views == 0:
            self._drop()

    cdef void _drop(self) noexcept:
        if self.private is None and self.attachment is not None and self.epoch == self.attachment.epoch:
            if self.filling:
                self._fail()
            folio.release(self.attachment.mem, self.attachment.me, self.entry, self.pfn)
            self.attachment.give(self.entry)
        self.private = None

    cdef void _fail(self) noexcept:
        """Give up filling: withdraw the folio, wake the waiters. The pin stays."""
        cdef mem_t mem = self.attachment.mem
        cdef u32 me = self.attachment.me
        self.filling = False
        client.enter(mem, me)
        filemap.remove(mem, me, atomics.read64(mem, atomics.folio_at(mem, self.pfn) + layout.F_INO), self.pfn)
        fill.fail(mem, self.pfn)
        client.leave(mem, me)


# A lease's end, in place of a __dealloc__: around one, Cython puts the pending exception aside, a twentieth of a hit, and _drop
# runs no Python and raises nothing. The object has no references left here, and _drop takes none.
cdef destructor _free_lease = (<PyTypeObject *>Lease).tp_dealloc


cdef void _end_lease(PyObject *lease) noexcept:
    if not (<Lease>lease).released:
        (<Lease>lease)._drop()
    _free_lease(lease)


(<PyTypeObject *>Lease).tp_dealloc = _end_lease


@cython.final
cdef class Target:
    """The writable bytes of a folio that is being filled.

    ``views`` are those that are still in use. A source may keep one, and spoil the fill by that; each counts as a view of the
    lease too, so that the page stays pinned, and no other content gets there, as long as somebody can write to it.
    """
    def __getbuffer__(self, Py_buffer *buffer, int wanted):
        cdef const fc_mem *m = <const fc_mem *>self.lease.attachment.mem
        cdef char *data = m.base + atomics.page_at(self.lease.attachment.mem, self.lease.pfn)
        PyBuffer_FillInfo(buffer, self, <void *>data, self.lease.length, 0, wanted)
        self.views += 1
        self.lease.views += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        self.views -= 1
        self.lease._end_view()


cdef Lease _lease(Attachment attachment, u32 entry, u32 pfn, Py_ssize_t length):
    """The lease of a pin that is word entry of the ledger."""
    cdef const fc_mem *m = <const fc_mem *>attachment.mem
    cdef const char *data = m.ro + atomics.page_at(attachment.mem, pfn)
    cdef Lease lease
    prefetch(data)  # the first byte is what most users touch, and its line is on its way while the lease is made
    lease = Lease.__new__(Lease)
    lease.attachment = attachment
    lease.epoch = attachment.epoch
    lease.entry = entry
    lease.pfn = pfn
    lease.length = length
    lease.data = data
    return lease


cdef class FolioMap:
    """The compiled part of a mapping: which object, how large its folios are, and where its index is.

    Slow paths are methods of the Python class on top: ``_miss(index, wanted)`` returns a lease, ``_wait(lease, index)`` a lease
    or None if the filler failed, ``_marked(lease, index)`` reads ahead.
    """
    def __init__(
        self, Attachment attachment, u64 size, u32 order, u32 height, bytes digest, bytes key_digest, bytes key, bytes version
    ):
        """digest: 16 bytes for key, version and size; key_digest: 8 for the key; key and version as shown to people."""
        self.attachment = attachment
        self.mem = attachment.mem
        self.size = size
        self.order = order
        self.height = height
        self.folio_size = attachment.segment.page_size << order
        self.folios = (size + self.folio_size - 1) // self.folio_size
        self.low = int.from_bytes(digest[:8], "little")
        self.high = int.from_bytes(digest[8:16], "little")
        self.key_digest = int.from_bytes(key_digest, "little")
        self.text = key + version
        self.key_length = len(key)
        self.previous = layout.HASH_MASK
        attachment.join()
        self._bind(self._look_up())

    def lease(self, int64_t index):
        """Pin folio ``index`` (0 .. ``folios`` - 1), reading it from the source if it is not cached.

        Raises IndexError, SourceError, and whatever the source raises.
        """
        return self._lease(index, 1)

    def _get(self, u64 index, u64 wanted):
        """As lease; a miss reads up to ``wanted`` folios at once."""
        return self._lease(index, wanted)

    @cython.final
    cdef Lease _lease(self, u64 index, u64 wanted):
        cdef mem_t mem = self.mem
        cdef u32 entry, pfn, seen
        cdef u64 at
        cdef Lease lease
        self._check_index(index)
        if not self.attachment.joined:
            self.attachment.join()
        entry = self.attachment.take()
        if entry == layout.NIL:
            return self._copy(index)
        pfn = filemap.lookup(mem, self.attachment.me, entry, self.ino, self.head, self.height, index)
        if pfn == layout.NIL:
            self.attachment.give(entry)
            return self._miss(index, wanted)
        if not self._fits(pfn, index):
            return self._miss(index, wanted)
        lease = _lease(self.attachment, entry, pfn, self._length(index))
        at = atomics.folio_at(mem, pfn)
        seen = flags.load(mem, at)
        if not seen & layout.PG_UPTODATE:
            return self._wait(lease, index) or self._miss(index, wanted)
        if not seen & layout.PG_REFERENCED:
            flags.mark_referenced(mem, at, seen)
        client.count(mem, self.attachment.me, layout.COUNT_HITS, 1)
        if seen & layout.PG_READAHEAD:
            self._marked(lease, index)
        self.previous = index
        return lease

    def read_bytes(self, offset, length):
        """Bytes offset .. offset + length - 1, cut off at the end of the object, as a ``bytes`` object: exactly one copy."""
        cdef u64 start, end, first, begin
        cdef Lease lease
        cdef bytes copy
        start, end = self._range(offset, length)
        if start == end:
            return b""
        first = start // self.folio_size
        begin = start - first * self.folio_size
        if end - first * self.folio_size <= self.folio_size:
            lease = self._lease(first, 1)
            copy = PyBytes_FromStringAndSize(lease.data + begin, end - start)
            lease.release()
            return copy
        copy = PyBytes_FromStringAndSize(NULL, end - start)
        # Nobody else has seen this object yet, so it may still be written to.
        self._gather(start, end, PyMemoryView_FromMemory(PyBytes_AS_STRING(copy), end - start, PyBUF_WRITE))
        return copy

    def read(self, offset, length):
        """Bytes offset .. offset + length - 1, cut off at the end of the object, as a read-only memoryview.

        Zero-copy when they lie in one folio: the view holds its pin. Otherwise one gathered copy, all its folios pinned until
        it is done (a copy of more than a quarter of the pool is gathered in pieces).
        """
        cdef u64 start = self._clip(offset)
        cdef u64 end = start + min(self._clip(length), self.size - start)
        cdef u64 first = start // self.folio_size
        cdef Lease lease
        if start == end:
            return memoryview(b"")
        if end > (first + 1) * self.folio_size:
            return memoryview(self.read_bytes(start, end - start))
        lease = self._lease(first, 1)
        lease.data += start - first * self.folio_size
        lease.length = end - start
        return PyMemoryView_FromObject(lease)

    cdef u64 _clip(self, n) except? 0xFFFFFFFFFFFFFFFF:
        """An offset or a length, no more than the object has."""
        if n < 0:
            raise ValueError(f"offset and length must not be negative: {n}")
        return self.size if n >= self.size else n

    def length_of(self, u64 index):
        """Valid bytes of folio index."""
        return self._length(index)

    @cython.final
    cdef Py_ssize_t _length(self, u64 index) noexcept:
        cdef u64 start = index * self.folio_size
        return min(self.folio_size, self.size - start)

    def is_cached(self, u64 index):
        """Whether folio index is in the cache and filled, without counting as a use."""
        cdef mem_t mem = self.mem
        cdef u32 pfn, seen
        self._check_index(index)
        self.attachment.join()
        pfn = filemap.lookup(mem, self.attachment.me, spare(), self.ino, self.head, self.height, index)
        if pfn == layout.NIL:
            return False
        seen = flags.load(mem, atomics.folio_at(mem, pfn))
        folio.release(mem, self.attachment.me, spare(), pfn)
        return bool(seen & layout.PG_UPTODATE)

    cdef Lease _copy(self, u64 index):
        """Folio index while every word of the ledger is in use: a lease on a copy."""
        cdef mem_t mem = self.mem
        cdef u32 pfn = filemap.lookup(mem, self.attachment.me, spare(), self.ino, self.head, self.height, index)
        cdef bytes content = None
        if pfn == layout.NIL:
            return self._read_privately(index)
        try:
            if self._fits(pfn, index) and flags.load(mem, atomics.folio_at(mem, pfn)) & layout.PG_UPTODATE:
                content = ((<const fc_mem *>mem).ro + atomics.page_at(mem, pfn))[:self._length(index)]
        finally:
            folio.release(mem, self.attachment.me, spare(), pfn)
        return self._private(content) if content is not None else self._read_privately(index)

    @cython.final
    cdef int _check_index(self, u64 index) except -1:
        if index >= self.folios:
            raise IndexError(f"folio {index} of an object with {self.folios}")
        return 0

    def _grab(self, u64 index):
        """Pin folio index, adding it if need be: a lease, ``filling`` if it is new. None when there is no room."""
        cdef u64 got = layout.GRAB_GONE
        cdef u32 length = self._length(index)
        cdef u32 entry
        cdef Lease lease
        self.attachment.join()
        entry = self.attachment.take()
        if entry == layout.NIL:
            return None
        for _ in range(layout.GRAB_TRIES):
            if self.ino or self._open():
                got = self._grab_as(entry, index, length)
                if got != layout.GRAB_GONE:
                    break
                self.ino = 0
        if got == layout.GRAB_NOMEM or got == layout.GRAB_GONE:
            self.attachment.give(entry)
            return None
        if not self._fits(<u32>got, index):
            return None
        lease = _lease(self.attachment, entry, <u32>got, length)
        lease.filling = got & layout.GRAB_ADDED != 0
        return lease

    cdef u64 _grab_as(self, u32 entry, u64 index, u32 length):
        cdef mem_t mem = self.mem
        cdef u32 me = self.attachment.me
        cdef u64 got
        client.enter(mem, me)
        got = filemap.grab(mem, me, self.ino, index, self._order_of(length), length)
        if got != layout.GRAB_NOMEM and got != layout.GRAB_GONE:
            client.hold(mem, me, entry, <u32>got)
        client.leave(mem, me)
        return got

    def _target(self, Lease lease):
        """The writable side of a folio that this process fills."""
        cdef Target target = Target()
        target.lease = lease
        return target

    def _complete(self, Lease lease, bint mark):
        """End a fill: the content is there. mark: reading on from here should read ahead."""
        if lease.epoch != self.attachment.epoch:
            raise LeaseError("this process was forked while it read from the source; the fill is the parent's to finish")
        if mark:
            flags.set_readahead(self.attachment.mem, atomics.folio_at(self.attachment.mem, lease.pfn))
        lease.filling = False
        client.enter(self.mem, self.attachment.me)
        filemap.complete(self.mem, self.attachment.me, lease.pfn)
        client.leave(self.mem, self.attachment.me)

    def _sleep(self, Lease lease, u64 timeout_ns):
        """Wait for the filler of a pinned folio: "uptodate", "failed", or "timeout"; or "taken" if he is dead, and the lease is
        ``filling`` now. Raises what a signal's handler raises."""
        cdef u32 seen = layout.PG_LOCKED
        cdef u32 pfn = lease.pfn
        cdef mem_t mem = self.attachment.mem
        cdef u64 deadline = atomics.now_ns() + timeout_ns
        # In slices: a signal that comes just before the futex call does not interrupt it, and must not wait for the filler. And
        # nobody wakes us when he dies.
        while seen & layout.PG_LOCKED and atomics.now_ns() < deadline:
            if fill.take_over(mem, self.attachment.me, pfn):
                lease.filling = True
                if not flags.load(mem, atomics.folio_at(mem, pfn)) & layout.PG_UPTODATE:
                    return "taken"
                self._complete(lease, False)
            with nogil:
                seen = fill.wait(mem, pfn, min(deadline - atomics.now_ns(), layout.WAIT_SLICE_NS))
            PyErr_CheckSignals()
        if seen & layout.PG_UPTODATE:
            return "uptodate"
        return "timeout" if seen & layout.PG_LOCKED else "failed"

    def _take_mark(self, Lease lease):
        """Take a readahead mark off; True for the one who did."""
        return flags.clear(self.attachment.mem, atomics.folio_at(self.attachment.mem, lease.pfn), layout.PG_READAHEAD) != 0

    def _use(self, Lease lease, u64 index):
        """Note a use of a filled folio that was not a plain hit."""
        cdef u64 at = atomics.folio_at(self.attachment.mem, lease.pfn)
        flags.mark_referenced(self.attachment.mem, at, flags.load(self.attachment.mem, at))
        self.previous = index

    def _private(self, bytes content):
        """A lease on bytes of our own."""
        cdef Lease lease = Lease.__new__(Lease)
        lease.attachment = self.attachment
        lease.epoch = self.attachment.epoch
        lease.private = content
        lease.data = PyBytes_AS_STRING(content)
        lease.length = PyBytes_GET_SIZE(content)
        return lease

    def invalidate(self):
        """Withdraw every folio of this object at this version from the cache. Leases that are out stay valid."""
        cdef mem_t mem = self.attachment.mem
        cdef u64 ino
        self.attachment.join()
        ino = self._look_up()
        if ino and self.folios:
            client.enter(mem, self.attachment.me)
            filemap.truncate(mem, self.attachment.me, ino, self.folios - 1)
            client.leave(mem, self.attachment.me)

    @cython.final
    cdef bint _fits(self, u32 pfn, u64 index) noexcept:
        """Whether folio index can lie at pfn without reaching beyond the pool: the last check before bytes are handed out.

        Fails only for damaged tables. The pin is not given back then: nobody knows whose it is.
        """
        cdef u64 end = (<u64>pfn << atomics.page_shift(self.mem)) + self._length(index)
        return end <= <u64>atomics.npages(self.mem) << atomics.page_shift(self.mem)

    cdef u32 _order_of(self, u64 length):
        """The smallest folio that holds length bytes."""
        cdef u32 order = 0
        cdef u64 page = self.attachment.segment.page_size
        while page << order < length:
            order += 1
        return order

    cdef void _bind(self, u64 ino):
        self.ino = ino
        self.head = mapping.head(self.attachment.mem, ino)

    cdef bint _open(self):
        """Find or make the mapping's record; False when there is no memory for it even after evicting."""
        cdef mem_t mem = self.attachment.mem
        cdef u32 me = self.attachment.me
        cdef u64 ino = 0
        client.enter(mem, me)
        for _ in range(layout.SHRINK_TRIES):
            ino = mapping.open(mem, me, self.low, self.high, self.key_digest, self.size, self.order, self.height, self.text,
                               self.key_length, len(self.text) - self.key_length)
            if ino or not vmscan.shrink(mem, me, 1):
                break
        client.leave(mem, me)
        if ino:
            self._bind(ino)
        return ino != 0

    cdef u64 _look_up(self):
        """The ino of the object, 0 if nothing of it is cached."""
        cdef u64 ino
        client.enter(self.mem, self.attachment.me)
        ino = mapping.lookup(self.mem, self.attachment.me, self.low, self.high)
        client.leave(self.mem, self.attachment.me)
        return ino
