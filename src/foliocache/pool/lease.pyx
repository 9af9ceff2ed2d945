"""Pins as Python objects: the hit path, and what happens on a miss.

A hit is one crossing into C: :meth:`FolioMap.lease` walks, gets, looks again (``mm.filemap.find_get``), reads the flags, and
hands out a :class:`Lease`, which holds the pin and exports the folio's bytes through the buffer protocol. What is not a plain
hit goes on in ``_miss`` and ``_wait``. How far to read, and the calls of the source, are Python's: ``mapping.Mapping``.

While a folio is being filled, the lease of its filler also stands for that duty (``filling``): let go before ``_complete``, on
whatever exception, it withdraws the folio and wakes those who wait, so no way out of a fill leaves a locked folio behind. Such
a lease is in compiled frames alone: those go with the exception, while a traceback keeps the variables of Python's.

Every pin is written down in the process's ledger (``mm.client``), so that it can be given back should the process be killed; a
lease knows which word is its own. Every *operation* of the core (``filemap.add``, ``folio.release``) is one call from beginning
to end: no Python runs in it, and the GIL is held, so that a process has one at a time. What may take long (the source, waiting
for another filler) is between them. The lease is made before its word is taken and its pin got: what then follows cannot fail.

A lease whose views are still in use cannot give its pin back: ``release`` then only refuses new views, and the last view's end
drops the pin. So ``numpy.frombuffer(lease)`` outlives a ``with`` block without any care.
"""
cimport cython
from cpython.buffer cimport PyBUF_FULL_RO, PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_FillInfo, PyBuffer_Release
from cpython.buffer cimport PyBuffer_IsContiguous, PyBuffer_ToContiguous, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.memoryview cimport PyMemoryView_FromObject
from cpython.number cimport PyNumber_AsSsize_t
from cpython.object cimport PyObject, PyTypeObject, destructor
from libc.stdint cimport uint32_t as u32, uint64_t as u64
from libc.string cimport memcpy, memset

from .attachment cimport Attachment, spare
from ..mm cimport atomics, fill, layout, mapping
from ..mm.atomics cimport fc_mem, mem_t
from ..mm.inline cimport client, filemap, flags, folio

cdef extern from *:
    """
    /* The value of an int of one digit, which almost all are; -1 for anything else. */
    static inline long long fc_digit(PyObject *n)
    {
        if (!PyLong_CheckExact(n))
            return -1;
    #if PY_VERSION_HEX >= 0x030C0000
        return PyUnstable_Long_IsCompact((PyLongObject *)n) ? PyUnstable_Long_CompactValue((PyLongObject *)n) : -1;
    #else
        return Py_SIZE(n) == 1 ? (long long)((PyLongObject *)n)->ob_digit[0] : Py_SIZE(n) == 0 ? 0 : -1;
    #endif
    }
    #define FC_REFUSE_NEW(type, function) \
        (((PyTypeObject *)(type))->tp_new = (newfunc)(function), ((PyTypeObject *)(type))->tp_vectorcall = NULL)
    """
    void prefetch "__builtin_prefetch" (const void *)
    long long digit "fc_digit" (object n)
    void FC_REFUSE_NEW(object type, void *function)

cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object n, int *overflow) except? -1

import threading

from ..filler import failure
from .attachment import refused
from ..errors import FoliocacheError, LeaseError, SourceError
from ..sizes import integer

cdef u64 TIMEOUT_MAX_NS = (<u64>1) << 62
cdef int NESTED_MAX = 2  # private reads of one folio within each other; a signal's handler may come in the middle of one
cdef u64 GATHER_SHARE = 4


@cython.final
@cython.no_gc
@cython.freelist(256)
@cython.auto_pickle(False)
cdef class Lease:
    """A pin on one folio, and its bytes: a read-only buffer of ``len(lease)`` bytes. ``lease[0]`` is the first, as an int.

    Use it as a context manager, call :meth:`release`, or let it go. While a view of it lives (``memoryview(lease)``,
    ``numpy.frombuffer(lease)``) its bytes stay mapped and pinned. Asking for a writable buffer raises BufferError; using a
    released lease, or one inherited by fork, raises LeaseError (a ValueError). It cannot be copied or pickled (TypeError).
    """
    def __init__(self):
        raise TypeError("leases come from Mapping.lease()")

    def __reduce__(self):
        raise TypeError(
            "a lease is a pin that this process holds, and cannot be copied or pickled; copy its bytes, bytes(lease), or "
            "pickle the mapping and take a lease there"
        )

    def __len__(self):
        return self.length

    def __getitem__(self, key):
        """``lease[n]`` is a byte, as an int; ``lease[a:b]`` a memoryview."""
        cdef Py_ssize_t n
        if not isinstance(key, int):
            return memoryview(self)[key]
        self._check()
        n = PyNumber_AsSsize_t(key, IndexError)
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

    cdef int _check_filling(self, Attachment attachment) except -1:
        """That this process is filling the lease's folio: it may write to it, and must finish or give up."""
        if self.attachment is not attachment:
            raise LeaseError("this lease is another pool's")
        if self.epoch != attachment.epoch:
            raise LeaseError("this process was forked while it read from the source; the fill is the parent's to finish")
        if not self.filling:
            raise LeaseError("the folio of this lease is not being filled, and nobody may write to it")
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

    cpdef release(self):
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
            if folio.release(self.attachment.mem, self.attachment.me, self.entry, self.pfn):
                self.attachment.give(self.entry)
            else:
                self.attachment.wait(self.entry)
        self.private = None

    cdef void _fail(self) noexcept:
        """Give up filling: withdraw the folio, wake the waiters. The pin stays."""
        self.filling = False
        filemap.withdraw(self.attachment.mem, self.attachment.me, self.pfn, self.explained)
        self.attachment.tidy()

    cdef char *_page(self) noexcept:
        """Where the folio's bytes can be written to; for its filler."""
        return (<const fc_mem *>self.attachment.mem).base + atomics.page_at(self.attachment.mem, self.pfn)

    cdef void _bind(self, Attachment attachment, u32 entry, u32 pfn, Py_ssize_t length) noexcept:
        """A new lease gets its pin: word entry of the ledger."""
        self.data = (<const fc_mem *>attachment.mem).ro + atomics.page_at(attachment.mem, pfn)
        prefetch(self.data)  # the first byte is what most users touch, and its line is on its way while the lease is made
        self.epoch = attachment.epoch
        self.entry = entry
        self.pfn = pfn
        self.length = length
        self.attachment = attachment


# A lease's end, in place of a __dealloc__: around one, Cython puts the pending exception aside, a twentieth of a hit, and _drop
# runs no Python and raises nothing. The object has no references left here, and _drop takes none.
cdef destructor _free_lease = (<PyTypeObject *>Lease).tp_dealloc


cdef void _end_lease(PyObject *lease) noexcept:
    if not (<Lease>lease).released:
        (<Lease>lease)._drop()
    _free_lease(lease)


(<PyTypeObject *>Lease).tp_dealloc = _end_lease


# What is made here has a pin from the beginning. Python's way to an empty object is closed; this module does not go by tp_new.

cdef object _no_lease(PyTypeObject *kind, PyObject *arguments, PyObject *keywords):
    raise TypeError("leases come from Mapping.lease()")


cdef object _no_target(PyTypeObject *kind, PyObject *arguments, PyObject *keywords):
    raise TypeError("a source is given the buffer that it is to fill; it cannot be made")


@cython.final
@cython.auto_pickle(False)
cdef class Target:
    """The writable bytes of a folio that is being filled, and no longer.

    ``views`` are those that are still in use. A source may keep one, and spoil the fill by that; each counts as a view of the
    lease too, so that the page stays pinned, and no other content gets there, as long as somebody can write to it.
    """
    def __init__(self):
        raise TypeError("a source is given the buffer that it is to fill; it cannot be made")

    def __reduce__(self):
        raise TypeError("the buffer that a source is to fill is a page of this process's pool, and cannot be copied or pickled")

    def __getbuffer__(self, Py_buffer *buffer, int wanted):
        self.lease._check_filling(self.lease.attachment)
        PyBuffer_FillInfo(buffer, self, self.lease._page(), self.lease.length, 0, wanted)
        self.views += 1
        self.lease.views += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        self.views -= 1
        self.lease._end_view()


FC_REFUSE_NEW(Lease, <void *>_no_lease)
FC_REFUSE_NEW(Target, <void *>_no_target)


cdef Lease new_lease():
    """One without a pin yet; for other modules, whose ``Lease.__new__`` goes by tp_new."""
    return Lease.__new__(Lease)


@cython.final
@cython.auto_pickle(False)
cdef class _Reading:
    """Folios that a thread is reading, as long as this is among its ``_reads``: in its source, or about to call it."""
    cdef mem_t mem
    cdef u64 digest_lo, digest_hi, first, end, since
    cdef u32 epoch
    cdef bint private

    cdef bint has(self, FolioMap object, u64 index) noexcept:
        return self.mem == object.mem and self.digest_lo == object.digest_lo and self.digest_hi == object.digest_hi and self.first <= index < self.end


_thread = threading.local()
cdef list _stalled = []  # private reads of all threads here, because a filler took too long


cdef list _reads():
    """What this thread is reading, the innermost last."""
    try:
        return _thread.reads
    except AttributeError:
        _thread.reads = []
        return _thread.reads


@cython.auto_pickle(False)
cdef class FolioMap:
    """The compiled part of a mapping: which object, how large its folios are, and where its index is.

    The Python class on top has ``_plan(index, wanted, previous)``: how many folios a miss reads, and which one to mark;
    ``_read_ahead_from(index)``; ``_call_read``, ``_call_readinto``: the source; ``_reason``, ``_failed``: what is said of a
    failure, and the exception for that of another.
    """
    def __init__(
        self, Attachment attachment not None, u64 size, u32 order, u32 height, bytes digest not None, bytes key_digest not None,
        bytes key not None, bytes version not None
    ):
        """digest: 16 bytes for key, version and size; key_digest: 8 for the key; key and version as shown to people."""
        if self.attachment is not None:
            raise TypeError("a mapping is one object at one version for as long as it lives; make another one")
        attachment.join()
        self.mem = attachment.mem
        self.size = size
        self.order = order
        self.height = height
        self.folio_size = <u64>1 << (atomics.page_shift(self.mem) + order)
        self.digest_lo = int.from_bytes(digest[:8], "little")
        self.digest_hi = int.from_bytes(digest[8:16], "little")
        self.key_digest = int.from_bytes(key_digest, "little")
        self.text = key + version
        self.key_length = len(key)
        self.previous = layout.HASH_MASK
        self._bind(filemap.resolve(self.mem, attachment.me, self.digest_lo, self.digest_hi))
        self.folios = (size + self.folio_size - 1) // self.folio_size
        self.lock, self.lock_epoch = threading.RLock(), attachment.epoch
        self.attachment = attachment

    def lease(self, index):
        """Pin folio ``index`` (0 .. ``folios`` - 1), reading it from the source if it is not cached.

        Raises IndexError, SourceError, and whatever the source raises.
        """
        return self._lease(self._index(index), 1)

    @cython.final
    cdef Lease _lease(self, u64 index, u64 wanted):
        """Folio index, less than folios; a miss reads up to ``wanted`` folios at once."""
        cdef mem_t mem = self.mem
        cdef u32 entry, pfn, seen
        cdef u64 at
        cdef Lease lease
        if not self.attachment.joined:
            self.attachment.join()
        lease = Lease.__new__(Lease)
        entry = self.attachment.take()
        if entry == layout.NIL:
            return self._copy(index)
        pfn = filemap.lookup(mem, self.attachment.me, entry, self.ino, self.head, self.height, index)
        if pfn == layout.NIL:
            self.attachment.give(entry)
            return self._miss(index, wanted)
        if not self._fits(pfn, index):
            return self._miss(index, wanted)
        lease._bind(self.attachment, entry, pfn, self._length(index))
        at = atomics.folio_at(mem, pfn)
        seen = flags.load(mem, at)
        if not seen & layout.PG_UPTODATE:
            return self._wait(lease, index) or self._miss(index, wanted)
        if not self._is_ours(at):
            return self._read_privately(index)
        if not seen & layout.PG_REFERENCED:
            flags.mark_referenced(mem, at, seen)
        client.count(mem, self.attachment.me, layout.COUNT_HITS, 1)
        if seen & layout.PG_READAHEAD and flags.clear(mem, at, layout.PG_READAHEAD):
            self._read_ahead_from(index)
        self.previous = index
        return lease

    def read_bytes(self, offset, length):
        """Bytes offset .. offset + length - 1, cut off at the end of the object, as a ``bytes`` object: exactly one copy."""
        cdef u64 start = self._clip(offset, "offset")
        cdef u64 end = start + min(self._clip(length, "length"), self.size - start)
        cdef u64 first, begin
        cdef Lease lease
        cdef bytes copy
        if start == end:
            self._check()
            return b""
        first = start // self.folio_size
        begin = start - first * self.folio_size
        if end - first * self.folio_size <= self.folio_size:
            lease = self._lease(first, 1)
            copy = PyBytes_FromStringAndSize(lease.data + begin, end - start)
            lease.release()
            return copy
        copy = PyBytes_FromStringAndSize(NULL, end - start)
        self._gather(start, end, PyBytes_AS_STRING(copy))  # nobody else has seen this object yet, so it may still be written to
        return copy

    def read(self, offset, length):
        """Bytes offset .. offset + length - 1, cut off at the end of the object, as a read-only memoryview.

        Zero-copy when they lie in one folio: the view holds its pin. Otherwise one gathered copy, all its folios pinned until
        it is done (a copy of more than a quarter of the pool is gathered in pieces).
        """
        cdef u64 start = self._clip(offset, "offset")
        cdef u64 end = start + min(self._clip(length, "length"), self.size - start)
        cdef u64 first
        cdef Lease lease
        if start == end:
            self._check()
            return memoryview(b"")
        first = start // self.folio_size
        if end > (first + 1) * self.folio_size:
            return memoryview(self.read_bytes(start, end - start))
        lease = self._lease(first, 1)
        lease.data += start - first * self.folio_size
        lease.length = end - start
        return PyMemoryView_FromObject(lease)

    def readinto(self, offset, buffer):
        """Fill a writable buffer, whose bytes lie side by side, from offset on.

        Returns how many bytes that is: less than the buffer has only where the object ends. Raises TypeError for other buffers.
        """
        cdef u64 start = self._clip(offset, "offset")
        cdef u64 end
        cdef Py_buffer target
        _get_writable(buffer, &target)
        try:
            end = start + min(<u64>target.len, self.size - start)
            if start < end:
                self._gather(start, end, <char *>target.buf)
            else:
                self._check()
        finally:
            PyBuffer_Release(&target)
        return end - start

    cdef int _gather(self, u64 start, u64 end, char *target) except -1:
        cdef u64 piece = max(((<u64>atomics.npages(self.mem)) << atomics.page_shift(self.mem)) // GATHER_SHARE, self.folio_size)
        cdef u64 begin = start
        while begin < end:
            self._gather_pinned(begin, min(begin + piece, end), target + (begin - start))
            begin += piece
        return 0

    cdef int _gather_pinned(self, u64 start, u64 end, char *target) except -1:
        """Copy one range whose folios are all pinned at once."""
        cdef u64 size = self.folio_size
        cdef u64 first = start // size
        cdef u64 last = (end - 1) // size
        cdef u64 index, begin, stop
        cdef list leases = []
        cdef Lease lease
        for index in range(first, last + 1):
            leases.append(self._lease(index, last - index + 1))
        for index in range(first, last + 1):
            lease = leases[index - first]
            begin, stop = max(start, index * size), min(end, (index + 1) * size)
            memcpy(target + (begin - start), lease.data + (begin - index * size), stop - begin)
        return 0

    @cython.final
    cdef u64 _clip(self, n, what) except? 0xFFFFFFFFFFFFFFFF:
        """An offset or a length, no more than the object has."""
        cdef long long value = digit(n)
        return min(<u64>value, self.size) if value >= 0 else self._clip_any(n, what)

    cdef u64 _clip_any(self, n, what) except? 0xFFFFFFFFFFFFFFFF:
        cdef int overflow = 0
        cdef long long value = PyLong_AsLongLongAndOverflow(integer(n, what), &overflow)
        if value < 0 and overflow <= 0:
            raise ValueError(f"{what} must not be negative: {n}")
        return self.size if overflow else min(<u64>value, self.size)

    @cython.final
    cdef u64 _index(self, n) except? 0xFFFFFFFFFFFFFFFF:
        """The number of one of the object's folios."""
        cdef long long value = digit(n)
        return value if 0 <= value and <u64>value < self.folios else self._index_any(n)

    cdef u64 _index_any(self, n) except? 0xFFFFFFFFFFFFFFFF:
        cdef int overflow = 0
        cdef long long value = PyLong_AsLongLongAndOverflow(integer(n, "the number of a folio"), &overflow)
        if overflow or value < 0 or <u64>value >= self.folios:
            self._check()
            raise IndexError(f"folio {n} of an object with {self.folios}")
        return value

    cdef int _check(self) except -1:
        """What does not ask the pool obeys the same rule as what does: not before there is one, and not after it was closed."""
        if self.attachment is None:
            raise FoliocacheError("this mapping has never been initialized; mappings come from Pool.mapping()")
        self.attachment.check_open()
        return 0

    def length_of(self, index):
        """Valid bytes of folio index."""
        self._check()
        return self._length(self._index(index))

    @cython.final
    cdef Py_ssize_t _length(self, u64 index) noexcept:
        cdef u64 start = index * self.folio_size
        return min(self.folio_size, self.size - start)

    def is_cached(self, index):
        """Whether folio index is in the cache and filled, without counting as a use."""
        return self._is_cached(self._index(index))

    cdef bint _is_cached(self, u64 index) except -1:
        cdef mem_t mem = self.mem
        cdef u32 pfn, seen
        self.attachment.join()
        pfn = filemap.lookup(mem, self.attachment.me, spare(), self.ino, self.head, self.height, index)
        if pfn == layout.NIL:
            return False
        seen = flags.load(mem, atomics.folio_at(mem, pfn))
        if not folio.release(mem, self.attachment.me, spare(), pfn):
            self.attachment.wait(spare())
        return seen & layout.PG_UPTODATE != 0

    cdef Lease _copy(self, u64 index):
        """Folio index while every word of the ledger is in use: a lease on a copy."""
        cdef mem_t mem = self.mem
        cdef bytes content = PyBytes_FromStringAndSize(NULL, self._length(index))
        cdef const char *data
        cdef bint copied = False
        cdef u64 at
        cdef u32 pfn = filemap.lookup(mem, self.attachment.me, spare(), self.ino, self.head, self.height, index)
        if pfn != layout.NIL:
            at = atomics.folio_at(mem, pfn)
            if self._fits(pfn, index) and flags.load(mem, at) & layout.PG_UPTODATE and self._is_ours(at):
                data = (<const fc_mem *>mem).ro + atomics.page_at(mem, pfn)
                memcpy(PyBytes_AS_STRING(content), data, PyBytes_GET_SIZE(content))
                copied = True
            if not folio.release(mem, self.attachment.me, spare(), pfn):
                self.attachment.wait(spare())
        return self._private(content) if copied else self._read_privately(index)

    # Misses.

    cdef Lease _miss(self, u64 index, u64 wanted):
        """Folio index, of which ``wanted`` folios from it on are about to be asked for."""
        cdef Lease lease
        for _ in range(layout.GRAB_TRIES):
            lease = self._grab(index)
            if lease is None and self.attachment.reap()[0]:
                lease = self._grab(index)  # dead processes still had some room
            if lease is None:
                break
            if lease.filling:
                self._fill_missing(lease, index, wanted)
                self.previous = index  # no use yet in reclaim's sense: a scan must not look like one
                return lease
            lease = self._wait(lease, index)
            if lease is not None:
                return lease
        return self._read_privately(index)

    cdef Lease _wait(self, Lease lease, u64 index):
        """A lease on what another is filling, once that is done. None if it gave up; an exception if it says why its source
        failed. Privately read if it takes too long; filled by us if it died."""
        cdef u32 seen
        cdef bint nested = self._nested(index, False) > 0
        if nested:  # this thread may be the one that fills it
            seen = flags.load(self.mem, atomics.folio_at(self.mem, lease.pfn))
        else:
            self.attachment.count(layout.COUNT_WAITS, 1)
            seen = self._sleep(lease, self._patience())
        if lease.filling:
            self._fill(lease, index, 1, None)
            self.attachment.reap()
            seen = layout.PG_UPTODATE
        elif seen & layout.PG_UPTODATE and not self._is_ours(atomics.folio_at(self.mem, lease.pfn)):
            return self._read_privately(index)
        if seen & layout.PG_UPTODATE:
            flags.mark_referenced(self.mem, atomics.folio_at(self.mem, lease.pfn), seen)
            self.previous = index
            return lease
        if seen & layout.PG_LOCKED:
            lease.release()
            return self._read_privately(index) if nested else self._read_stalled(index)
        if seen & layout.PG_REASON:
            self._raise_failure(lease, index)
        return None

    cdef int _raise_failure(self, Lease lease, u64 index) except -1:
        """Raise what a folio's filler has written down about its source, if that is it."""
        cdef const char *data = (<const fc_mem *>self.mem).ro + atomics.page_at(self.mem, lease.pfn)
        cdef bytes said = data[:failure.RECORD_MAX]
        reason = failure.read(said)
        if reason is not None:
            raise self._failed(reason, index * self.folio_size)
        return 0

    cdef u64 _patience(self) except? 0:
        """How long to wait for another, in ns."""
        cdef double seconds = self.pool.fill_timeout
        return TIMEOUT_MAX_NS if seconds * 1e9 >= TIMEOUT_MAX_NS else <u64>(seconds * 1e9) if seconds > 0 else 0

    cdef u32 _sleep(self, Lease lease, u64 timeout_ns) except? 0xFFFFFFFF:
        """Wait for the filler of a pinned folio: the folio's flags then. If the filler is dead, the lease is ``filling`` now.
        Raises what a signal's handler raises."""
        cdef u32 pfn = lease.pfn
        cdef mem_t mem = self.mem
        cdef u64 deadline = atomics.now_ns() + timeout_ns
        cdef u64 now = 0
        cdef u32 seen = flags.load(mem, atomics.folio_at(mem, pfn))
        # In slices: a signal that comes just before the futex call does not interrupt it, and must not wait for the filler. And
        # nobody wakes us when it dies.
        while seen & layout.PG_LOCKED and now < deadline:
            if fill.take_over(mem, self.attachment.me, pfn):
                lease.filling = True
                seen = flags.load(mem, atomics.folio_at(mem, pfn))
                if seen & layout.PG_UPTODATE:
                    self._complete(lease, False)
                return seen
            now = atomics.now_ns()
            with nogil:
                seen = fill.wait(mem, pfn, min(deadline - min(now, deadline), layout.WAIT_SLICE_NS))
            PyErr_CheckSignals()
        return seen

    def _read_ahead(self, u64 index, u64 count, mark):
        """Read folios from index on, in a background thread: errors are the business of who asks for the data."""
        cdef u64 end = min(index + count, self.folios)
        cdef u64 filled
        cdef Lease lease
        self._check()
        try:
            while index < end:
                lease = self._grab(index)
                if lease is None:
                    return
                filled = self._fill(lease, index, end - index, mark) if lease.filling else 1
                self.attachment.count(layout.COUNT_READAHEAD, filled)
                lease = None
                index += filled
        except Exception:
            pass

    def _first_missing(self, u64 index, u64 end):
        """The first folio in index .. end - 1 that is not cached, or end."""
        self._check()
        end = min(end, self.folios)
        while index < end and self._is_cached(index):
            index += 1
        return index

    cdef Lease _grab(self, u64 index):
        """Pin folio index, adding it if need be: a lease, ``filling`` if it is new. None when there is no room."""
        cdef u64 got = layout.GRAB_GONE
        cdef u32 length = self._length(index)
        cdef u32 entry
        cdef Lease lease = Lease.__new__(Lease)
        self.attachment.join()
        self.attachment.tidy()
        entry = self.attachment.take()
        if entry == layout.NIL:
            return None
        for _ in range(layout.GRAB_TRIES):
            if self.ino or self._open():
                got = filemap.add(self.mem, self.attachment.me, entry, self.ino, index, self.order, 0, self.size)
                if got != layout.GRAB_GONE:
                    break
                self.ino = 0
        if got == layout.GRAB_NOMEM or got == layout.GRAB_GONE:
            self.attachment.give(entry)
            return None
        if not self._fits(<u32>got, index):
            return None
        lease._bind(self.attachment, entry, <u32>got, length)
        lease.filling = got & layout.GRAB_ADDED != 0
        return lease

    # Filling.

    cdef int _fill_missing(self, Lease lease, u64 index, u64 wanted) except -1:
        """Fill a folio that a reader has missed, and those behind it that it is about to ask for."""
        self.attachment.count(layout.COUNT_MISSES, 1)
        count, mark = self._plan(index, wanted, self.previous if self.previous < self.folios else None)
        self._fill(lease, index, count, mark)
        return 0

    cdef u64 _fill(self, Lease lease, u64 index, u64 count, mark) except? 0:
        """Fill folio index, whose lease is ``filling``, and those behind it that can be added, at most ``count``: how many."""
        cdef list run = [lease], reads = _reads()
        cdef _Reading reading = self._reading(index, count, False)
        cdef u64 filled, size = 0
        reads.append(reading)
        try:
            self._extend(run, index, count)
            self._read_source(run, index)
        except BaseException:
            for lease in run:
                lease.release()
            self.attachment.count(layout.COUNT_ERRORS, 1)
            raise
        finally:
            reads.remove(reading)
        filled = len(run)
        for at in range(filled):
            lease = run[at]
            size += lease.length
            self._complete(lease, mark is not None and index + at == mark)
        self.attachment.count(layout.COUNT_FILLS, filled)
        self.attachment.count(layout.COUNT_FILL_BYTES, size)
        return filled

    cdef int _extend(self, list run, u64 index, u64 count) except -1:
        """Add the missing folios right behind the first one, until ``count`` are in the run."""
        cdef u64 behind
        cdef Lease lease
        for behind in range(index + 1, min(index + count, self.folios)):
            lease = self._grab(behind)
            if lease is None or not lease.filling:
                break
            run.append(lease)
        return 0

    cdef int _read_source(self, list run, u64 index) except -1:
        """One call of the source for a whole run of folios, if it is one that returns bytes. A failure is written down for
        those who wait for one of them."""
        cdef Lease lease
        lock = self._take_turn()
        try:
            if self._source_readinto is None or (self._source_read is not None and len(run) > 1):
                self._read_to_pages(run, index)
            else:
                for lease in run:
                    self._read_into_page(lease, index)
                    index += 1
        except Exception as error:
            self._explain(run, self._reason(error))
            raise
        finally:
            if lock is not None:
                lock.release()
        return 0

    cdef void _explain(self, list run, bytes reason) noexcept:
        """Write down why a source failed, in the pages that it did not fill."""
        cdef Lease lease
        for lease in run:
            if reason is not None and lease.filling and lease.epoch == self.attachment.epoch:
                memcpy(lease._page(), PyBytes_AS_STRING(reason), PyBytes_GET_SIZE(reason))
                lease.explained = True

    cdef int _read_to_pages(self, list run, u64 index) except -1:
        cdef Lease lease
        cdef Py_ssize_t length = 0, at = 0
        cdef Py_buffer answer
        for lease in run:
            length += lease.length
        content = self._call_read(index * self.folio_size, length)
        _get_readable(content, &answer, self.key)
        try:
            self._check_length(answer.len, index * self.folio_size, length)
            for lease in run:
                lease._check_filling(self.attachment)
                memcpy(lease._page(), <char *>answer.buf + at, lease.length)
                _clear_tail(self.mem, lease)
                at += lease.length
        finally:
            PyBuffer_Release(&answer)
        return 0

    cdef int _read_into_page(self, Lease lease, u64 index) except -1:
        cdef Target target = Target.__new__(Target)
        lease._check_filling(self.attachment)
        target.lease = lease
        memset(lease._page(), 0, lease.length)  # what the page held before is not the source's to see, or to leave there
        _clear_tail(self.mem, lease)
        view = PyMemoryView_FromObject(target)
        try:
            self._call_readinto(index * self.folio_size, view)
        finally:
            kept = not _release(view) or target.views != 0
        if kept:
            raise SourceError(f"the source of {self.key!r} kept the buffer that it was given to fill")
        return 0

    cdef int _complete(self, Lease lease, bint mark) except -1:
        """End a fill: the content is there. mark: reading on from here should read ahead."""
        lease._check_filling(self.attachment)
        if mark:
            flags.set_readahead(self.mem, atomics.folio_at(self.mem, lease.pfn))
        lease.filling = False
        filemap.finish_fill(self.mem, self.attachment.me, lease.pfn)
        self.attachment.tidy()
        return 0

    cdef Lease _read_stalled(self, u64 index):
        """Read privately what takes its filler too long. Not if another thread here has been at that for too long already: it
        may be in the source, which reads its own mapping in yet another thread, and would do so for ever."""
        cdef _Reading reading = self._reading(index, 1, True)
        cdef _Reading other
        cdef u64 patience = max(self._patience(), <u64>1_000_000_000)
        for other in _stalled:
            if other.has(self, index) and other.epoch == reading.epoch and reading.since - other.since >= patience:
                raise SourceError(
                    f"{self.key!r} at offset {index * self.folio_size}: two calls of its source have not returned for "
                    f"{self.pool.fill_timeout:g} s each; the origin hangs, or the source reads its own mapping in a thread"
                )
        _stalled.append(reading)
        try:
            return self._read_privately(index)
        finally:
            _stalled.remove(reading)

    cdef Lease _read_privately(self, u64 index):
        """Every page is in use, or another takes too long: bytes of our own, uncached."""
        cdef list reads = _reads()
        cdef _Reading reading = self._reading(index, 1, True)
        if self._nested(index, True) >= NESTED_MAX:
            raise SourceError(
                f"the source of {self.key!r} reads the same bytes of its own mapping, at offset {index * self.folio_size}, and "
                "would do so for ever"
            )
        self.attachment.count(layout.COUNT_BYPASSES, 1)
        reads.append(reading)
        try:
            return self._private(self._content(index))
        finally:
            reads.remove(reading)

    cdef bytes _content(self, u64 index):
        """Folio index, from the source."""
        cdef u64 offset = index * self.folio_size
        cdef Py_ssize_t length = self._length(index)
        cdef Py_buffer answer
        lock = self._take_turn()
        try:
            if self._source_read is None and self._source_readinto is not None:
                target = bytearray(length)
                with memoryview(target) as view:
                    self._call_readinto(offset, view)
                return bytes(target)
            _get_readable(self._call_read(offset, length), &answer, self.key)
            try:
                self._check_length(answer.len, offset, length)
                return PyBytes_FromStringAndSize(<char *>answer.buf, length)
            finally:
                PyBuffer_Release(&answer)
        finally:
            if lock is not None:
                lock.release()

    cdef object _take_turn(self):
        """The source is ours, until the lock that is returned is released; None for one that several threads may call at once.

        A thread that is within the source already may call it again. Waits as long as other threads' calls come to an end.
        """
        cdef double seconds
        cdef u64 calls
        if self._concurrent:
            return None
        if self.lock_epoch != self.attachment.epoch:  # another thread of the parent may have been in the source
            self.lock, self.lock_epoch = threading.RLock(), self.attachment.epoch
        lock = self.lock
        seconds = min(max(self._patience() / 1e9, 1), threading.TIMEOUT_MAX)
        while True:
            calls = self.calls
            if lock.acquire(True, seconds):
                self.calls += 1
                return lock
            if calls == self.calls:
                raise SourceError(
                    f"the source of {self.key!r} has not returned for {seconds:g} s in another thread, and this mapping calls "
                    "it in one thread at a time; open it with concurrent=True if it may be called by several"
                )

    cdef object _reading(self, u64 index, u64 count, bint private):
        cdef _Reading reading = _Reading.__new__(_Reading)
        reading.mem, reading.digest_lo, reading.digest_hi = self.mem, self.digest_lo, self.digest_hi
        reading.first, reading.end = index, index + count
        reading.since, reading.epoch = atomics.now_ns(), self.attachment.epoch
        reading.private = private
        return reading

    cdef int _nested(self, u64 index, bint private) except -1:
        """How often this thread is reading a folio of this object already; private: those reads alone that are."""
        cdef _Reading reading
        cdef int count = 0
        for reading in _reads():
            if reading.has(self, index) and (reading.private or not private):
                count += 1
        return count

    cdef Lease _private(self, bytes content):
        """A lease on bytes of our own."""
        cdef Lease lease = Lease.__new__(Lease)
        lease.attachment = self.attachment
        lease.epoch = self.attachment.epoch
        lease.private = content
        lease.data = PyBytes_AS_STRING(content)
        lease.length = PyBytes_GET_SIZE(content)
        return lease

    def invalidate(self):
        """Withdraw every folio of this object at this version from the cache. Leases that are out stay valid.

        Raises FoliocacheError if it could not be finished: another process has stopped while it holds a lock of the pool.
        """
        cdef bint done = True
        self._check()
        self.attachment.join()
        if self.folios:
            done = filemap.invalidate(self.mem, self.attachment.me, self.digest_lo, self.digest_hi, self.folios - 1)
            self.attachment.tidy()
        if not done:
            raise refused(f"invalidate of {self.key!r}")

    @cython.final
    cdef bint _fits(self, u32 pfn, u64 index) noexcept:
        """Whether folio index can lie at pfn without reaching beyond the pool: the last check before bytes are handed out.

        Fails only for damaged tables. The pin is not given back then: nobody knows whose it is.
        """
        cdef u64 end = (<u64>pfn << atomics.page_shift(self.mem)) + self._length(index)
        return end <= <u64>atomics.npages(self.mem) << atomics.page_shift(self.mem)

    cdef bint _is_ours(self, u64 at) noexcept:
        """Whether the filled folio at this descriptor is the object's by its digest, too, and not only by its ino.

        Fails only where a record was damaged, so that one object was found by another's name.
        """
        return atomics.read64(self.mem, at + layout.F_DIGEST) == self.digest_lo

    cdef void _bind(self, u64 ino) noexcept:
        self.ino = ino
        self.head = mapping.head(self.mem, ino)

    cdef bint _open(self) noexcept:
        """Find or make the mapping's record; False when there is no memory for it even after evicting."""
        cdef const char *text = PyBytes_AS_STRING(self.text)
        cdef u32 length = PyBytes_GET_SIZE(self.text)
        cdef u64 ino = filemap.open(self.mem, self.attachment.me, self.digest_lo, self.digest_hi, self.key_digest, self.size, self.order,
                                    self.height, text, self.key_length, length - self.key_length)
        if ino:
            self._bind(ino)
        return ino != 0


cdef void _clear_tail(mem_t mem, Lease lease) noexcept:
    """Behind the folio's last byte, to the end of its page: a window maps whole pages."""
    cdef Py_ssize_t page = 1 << atomics.page_shift(mem)
    memset(lease._page() + lease.length, 0, -lease.length & (page - 1))


cdef bint _release(memoryview view) except -1:
    """Whether nobody looks through the view any more."""
    try:
        view.release()
    except BufferError:
        return False
    return True


cdef int _get_writable(buffer, Py_buffer *view) except -1:
    try:
        PyObject_GetBuffer(buffer, view, PyBUF_WRITABLE)
    except Exception as error:
        raise TypeError(
            f"readinto needs a writable buffer whose bytes lie side by side, not {type(buffer).__name__}: {error}"
        ) from None
    try:
        if view.len and _has_objects(buffer):
            raise TypeError(f"readinto needs a buffer of bytes or numbers, not {type(buffer).__name__} of Python objects")
    except BaseException:
        PyBuffer_Release(view)
        raise
    return 0


cdef bint _has_objects(buffer) except -1:
    """Whether a buffer's bytes are pointers to Python objects: numpy and ctypes lend such to whoever does not ask."""
    if type(buffer) is bytes or type(buffer) is bytearray:
        return False
    if getattr(getattr(buffer, "dtype", None), "hasobject", False) is True:
        return True
    try:
        with memoryview(buffer) as view:
            return any("O" in part for part in view.format.split(":")[::2])  # names of fields are between colons
    except Exception:  # no buffer, or one that cannot say what it has (dates)
        return False


cdef int _get_plain(content, Py_buffer *view, key) except -1:
    """The bytes of something that can say nothing about them, such as numpy's dates."""
    try:
        PyObject_GetBuffer(content, view, PyBUF_SIMPLE)
    except Exception as error:
        raise SourceError(
            f"the source of {key!r} returned {type(content).__name__} whose bytes cannot be had: {error}"
        ) from error
    return 0


cdef int _get_readable(content, Py_buffer *view, key) except -1:
    """The bytes of a source's answer, side by side; in the order of ``bytes(content)`` if they were scattered."""
    if _has_objects(content):
        raise SourceError(f"the source of {key!r} returned {type(content).__name__} of Python objects, not bytes")
    try:
        PyObject_GetBuffer(content, view, PyBUF_FULL_RO)
    except TypeError:
        raise SourceError(f"the source of {key!r} returned {type(content).__name__}, not a bytes-like object") from None
    except Exception:
        _get_plain(content, view, key)
    try:
        if PyBuffer_IsContiguous(view, b"C"):
            return 0
        copy = PyBytes_FromStringAndSize(NULL, view.len)
        PyBuffer_ToContiguous(PyBytes_AS_STRING(copy), view, view.len, b"C")
    except BaseException:
        PyBuffer_Release(view)
        raise
    PyBuffer_Release(view)
    PyObject_GetBuffer(copy, view, PyBUF_SIMPLE)
    return 0
