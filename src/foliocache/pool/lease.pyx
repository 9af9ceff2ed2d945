"""Pins as Python objects: the hit path, and the steps of a fill.

A hit is one crossing into C: :meth:`FolioMap.lease` walks, gets, looks again (``mm.filemap.find_get``), reads the flags, and
returns a :class:`Lease`, which holds the pin and exports the folio's bytes through the buffer protocol. What is not a plain hit
goes through one door, ``filler.miss.Filler``, which comes back for the steps of a fill (``filler.steps``).

While a folio is being filled, the lease of its filler also stands for that duty (``filling``): dropped before ``complete``, on
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
from cpython.buffer cimport PyBuffer_FillInfo, PyBuffer_Release
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.memoryview cimport PyMemoryView_FromObject
from cpython.number cimport PyNumber_AsSsize_t
from cpython.object cimport PyObject, PyTypeObject, destructor
from libc.stdint cimport uint32_t as u32, uint64_t as u64
from libc.string cimport memcpy, memset

from .attachment cimport Attachment, spare
from ..filler.buffers cimport get_writable
from ..filler.miss cimport Filler
from ..filler.steps cimport FAILED, FILLED, FOREIGN, LATE, OURS, Steps
from ..mm cimport atomics, fill, layout, mapping
from ..mm.atomics cimport fc_mem, mem_t
from ..mm.inline cimport client, filemap, flags, folio, page_type

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

from ..filler.failure import RECORD_MAX
from .attachment import refused
from ..errors import FoliocacheError, LeaseError
from ..sizes import integer

cdef u64 GATHER_SHARE = 4


@cython.final
@cython.no_gc
@cython.freelist(256)
@cython.auto_pickle(False)
cdef class Lease:
    """A pin on one folio, and its bytes: a read-only buffer of ``len(lease)`` bytes. ``lease[0]`` is the first, as an int.

    Use it as a context manager, call `release`, or let it go. While a view of it lives (``memoryview(lease)``,
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

    cdef void _bind(self, Attachment attachment, u32 entry, u32 pfn, u64 begin, Py_ssize_t length) noexcept:
        """Give a new lease its pin, word entry of the ledger, and ``length`` bytes of the folio from byte ``begin`` on."""
        self.data = (<const fc_mem *>attachment.mem).ro + atomics.page_at(attachment.mem, pfn) + begin
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
    lease too, so that the page stays pinned, and no other content gets there, as long as it can be written to.
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


@cython.auto_pickle(False)
cdef class FolioMap(Steps):
    """The compiled part of a mapping: which object, how large its folios are, where its index is. Misses go to ``filler``."""
    def __init__(
        self, Attachment attachment not None, Filler filler not None, u64 size, u32 order, u32 height, bytes digest not None,
        bytes key_digest not None, bytes key not None, bytes version not None, u32 span
    ):
        """digest: 16 bytes for key, version and size; key_digest: 8 for the key; key and version as shown to people."""
        if self.attachment is not None:
            raise TypeError("a mapping is one object at one version for as long as it lives; make another one")
        attachment.join()
        self.mem = attachment.mem
        self.size = size
        self.order = order
        self.span = span
        self.height = height
        self.shift = atomics.page_shift(self.mem) + order
        self.folio_size = <u64>1 << self.shift
        self.digest_lo = int.from_bytes(digest[:8], "little")
        self.digest_hi = int.from_bytes(digest[8:16], "little")
        self.key_digest = int.from_bytes(key_digest, "little")
        self.text = key + version
        self.key_length = len(key)
        self.previous = layout.HASH_MASK
        self._bind(filemap.resolve(self.mem, attachment.me, self.digest_lo, self.digest_hi))
        self.folios = (size + self.folio_size - 1) // self.folio_size
        self.identity = self.mem, digest
        self.filler = filler
        self.attachment = attachment

    def lease(self, index):
        """Pin a folio, reading it from the source if it is not cached.

        Parameters
        ----------
        index : int
            Its number, from 0 to ``folios - 1``.

        Returns
        -------
        Lease

        Raises
        ------
        IndexError
            There is no such folio.
        SourceError
            The source did not give the bytes, or there is none.
        FoliocacheError
            The pool has been closed.
        Exception
            Whatever the source raises.
        """
        return self._lease(self._index(index), 1)

    @cython.final
    cdef Lease _lease(self, u64 index, u64 wanted):
        """Folio index, less than folios; a miss reads up to ``wanted`` folios at once."""
        cdef mem_t mem = self.mem
        cdef u32 entry, pfn, seen
        cdef u64 at, begin, length
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
            return self.filler.miss(self, index, wanted)
        # As _bind_units, whose call would be a twentieth of a hit.
        begin = (index - filemap.first_of(mem, pfn)) << self.shift
        length = self._length(index)
        if wanted != 1:
            length = self._more(pfn, begin, length, wanted)
        if not self._fits(pfn, begin + length):
            return self.filler.miss(self, index, wanted)
        lease._bind(self.attachment, entry, pfn, begin, length)
        at = atomics.folio_at(mem, pfn)
        seen = flags.load(mem, at)
        if not seen & layout.PG_UPTODATE:
            return self.filler.join(self, lease, index, wanted)
        if not self._is_ours(at):
            return self.filler.read_privately(self, index)
        if not seen & layout.PG_REFERENCED:
            flags.mark_referenced(mem, at, seen)
        client.count(mem, self.attachment.me, layout.COUNT_HITS, 1)
        if seen & layout.PG_READAHEAD and flags.clear(mem, at, layout.PG_READAHEAD):
            begin = filemap.first_of(mem, pfn)
            self.filler.read_ahead_from(self, begin, begin + (<u64>1 << page_type.span(mem, pfn)))
        self.previous = index if wanted == 1 else index + self._units(lease.length) - 1
        return lease

    def read_bytes(self, offset, length):
        """A range of the object as ``bytes``: exactly one copy.

        Parameters
        ----------
        offset, length : int
            The first byte, and how many; cut off at the end of the object.

        Returns
        -------
        bytes

        Raises
        ------
        SourceError
            The source did not give the bytes, or there is none.
        FoliocacheError
            The pool has been closed.
        Exception
            Whatever the source raises.
        """
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
        """A range of the object as a read-only view.

        It is of the folio itself where one has all of the range, and holds its pin. Otherwise it is of one gathered copy,
        during which all its folios are pinned (more than a quarter of the pool is gathered in pieces).

        Parameters
        ----------
        offset, length : int
            The first byte, and how many; cut off at the end of the object.

        Returns
        -------
        memoryview

        Raises
        ------
        SourceError
            The source did not give the bytes, or there is none.
        FoliocacheError
            The pool has been closed.
        Exception
            Whatever the source raises.
        """
        cdef u64 start = self._clip(offset, "offset")
        cdef u64 end = start + min(self._clip(length, "length"), self.size - start)
        cdef u64 first, begin
        cdef Lease lease
        if start == end:
            self._check()
            return memoryview(b"")
        first = start >> self.shift
        begin = start - (first << self.shift)
        lease = self._lease(first, self._units(begin + end - start))
        if begin + end - start > <u64>lease.length:
            return memoryview(self.read_bytes(start, end - start))
        lease.data += begin
        lease.length = end - start
        return PyMemoryView_FromObject(lease)

    def readinto(self, offset, buffer):
        """Fill a buffer with the object's bytes from offset on.

        Parameters
        ----------
        offset : int
            The first byte.
        buffer : writable bytes-like object
            Contiguous; of bytes or numbers.

        Returns
        -------
        int
            How many bytes it was given: less than it has only where the object ends.

        Raises
        ------
        TypeError
            Any other buffer.
        SourceError
            The source did not give the bytes, or there is none.
        FoliocacheError
            The pool has been closed.
        Exception
            Whatever the source raises.
        """
        cdef u64 start = self._clip(offset, "offset")
        cdef u64 end
        cdef Py_buffer target
        get_writable(buffer, &target)
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
        cdef u64 piece = max(((<u64>atomics.npages_max(self.mem)) << atomics.page_shift(self.mem)) // GATHER_SHARE, self.folio_size)
        cdef u64 begin = start
        while begin < end:
            self._gather_pinned(begin, min(begin + piece, end), target + (begin - start))
            begin += piece
        return 0

    cdef int _gather_pinned(self, u64 start, u64 end, char *target) except -1:
        """Copy one range whose folios are all pinned at once."""
        cdef u64 index = start >> self.shift
        cdef u64 last = (end - 1) >> self.shift
        cdef u64 place = index << self.shift
        cdef u64 begin, stop
        cdef list leases = []
        cdef Lease lease
        while index <= last:
            lease = self._lease(index, last - index + 1)
            leases.append(lease)
            index += self._units(lease.length)
        for lease in leases:
            begin, stop = max(start, place), min(end, place + lease.length)
            memcpy(target + (begin - start), lease.data + (begin - place), stop - begin)
            place += lease.length
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
        """How many bytes of the object folio index has.

        Parameters
        ----------
        index : int
            Its number, from 0 to ``folios - 1``.

        Returns
        -------
        int

        Raises
        ------
        IndexError
            There is no such folio.
        """
        self._check()
        return self._length(self._index(index))

    @cython.final
    cdef Py_ssize_t _length(self, u64 index) noexcept:
        return min(self.folio_size, self.size - (index << self.shift))

    @cython.final
    cdef u64 _units(self, u64 length) noexcept:
        """Return how many units so many bytes are."""
        return (length + self.folio_size - 1) >> self.shift

    def is_cached(self, index):
        """Whether a folio is in the pool, and filled. It does not count as a use.

        Parameters
        ----------
        index : int
            Its number, from 0 to ``folios - 1``.

        Returns
        -------
        bool

        Raises
        ------
        IndexError
            There is no such folio.
        """
        return self.probe(self._index(index))

    cdef bint probe(self, u64 index) except -1:
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
        cdef u64 at, begin
        cdef u32 pfn = filemap.lookup(mem, self.attachment.me, spare(), self.ino, self.head, self.height, index)
        if pfn != layout.NIL:
            at = atomics.folio_at(mem, pfn)
            begin = (index - filemap.first_of(mem, pfn)) << self.shift
            if self._fits(pfn, begin + self._length(index)) and flags.load(mem, at) & layout.PG_UPTODATE and self._is_ours(at):
                data = (<const fc_mem *>mem).ro + atomics.page_at(mem, pfn) + begin
                memcpy(PyBytes_AS_STRING(content), data, PyBytes_GET_SIZE(content))
                copied = True
            if not folio.release(mem, self.attachment.me, spare(), pfn):
                self.attachment.wait(spare())
        return self.private(content) if copied else self.filler.read_privately(self, index)

    # The steps of a fill: see ``filler.steps``.

    cdef Py_ssize_t length(self, u64 index) noexcept:
        return self._length(index)

    cdef u64 units(self, lease) noexcept:
        return self._units((<Lease>lease).length)

    cdef Py_ssize_t bytes(self, lease) noexcept:
        return (<Lease>lease).length

    cdef u64 widen(self, lease) noexcept:
        cdef Lease whole = lease
        cdef u64 first = filemap.first_of(self.mem, whole.pfn)
        whole._bind(self.attachment, whole.entry, whole.pfn, 0, self._bytes(whole.pfn, first))
        return first

    cdef void narrow(self, lease, u64 index, u64 count) noexcept:
        self._bind_units(lease, (<Lease>lease).entry, (<Lease>lease).pfn, index, count)

    cdef object grab(self, u64 index, u64 count):
        cdef u64 got = layout.GRAB_GONE
        cdef u32 entry
        cdef u32 span = 0
        cdef Lease lease = Lease.__new__(Lease)
        self.attachment.join()
        self.attachment.tidy()
        entry = self.attachment.take()
        if entry == layout.NIL:
            return None
        while span < self.span and <u64>2 << span <= count and index & ((<u64>2 << span) - 1) == 0:
            span += 1
        for _ in range(layout.GRAB_TRIES):
            if self.ino or self._open():
                got = filemap.add(self.mem, self.attachment.me, entry, self.ino, index, self.order, span, self.size)
                if got != layout.GRAB_GONE:
                    break
                self.ino = 0
        if got == layout.GRAB_NOMEM or got == layout.GRAB_GONE:
            self.attachment.give(entry)
            return None
        if not self._bind_units(lease, entry, <u32>got, index, count):
            return None
        lease.filling = got & layout.GRAB_ADDED != 0
        if lease.filling and <u64>lease.length != self._bytes(lease.pfn, index):  # or a part of the folio would stay unfilled
            lease.release()
            return None
        return lease

    cdef bint is_filling(self, lease) noexcept:
        return (<Lease>lease).filling

    cdef int wait(self, lease, u64 timeout_ns) except -1:
        cdef Lease waiting = lease
        cdef u64 at = atomics.folio_at(self.mem, waiting.pfn)
        cdef u32 seen = self._sleep(waiting, timeout_ns)
        if waiting.filling:
            return OURS
        if seen & layout.PG_UPTODATE:
            if not self._is_ours(at):
                return FOREIGN
            flags.mark_referenced(self.mem, at, seen)
            return FILLED
        return LATE if seen & layout.PG_LOCKED else FAILED

    cdef u32 _sleep(self, Lease lease, u64 timeout_ns) except? 0xFFFFFFFF:
        """Wait for the filler of a pinned folio. Returns the folio's flags.

        If the filler is dead, the lease is ``filling`` then, unless the content was there already.
        """
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
                    self.complete(lease, False)
                return seen
            now = atomics.now_ns()
            with nogil:
                seen = fill.wait(mem, pfn, min(deadline - min(now, deadline), layout.WAIT_SLICE_NS))
            PyErr_CheckSignals()
        return seen

    cdef bytes explanation(self, lease):
        cdef Lease failed = lease
        if not flags.load(self.mem, atomics.folio_at(self.mem, failed.pfn)) & layout.PG_REASON:
            return None
        return ((<const fc_mem *>self.mem).ro + atomics.page_at(self.mem, failed.pfn))[:<Py_ssize_t>RECORD_MAX]

    cdef object target(self, lease):
        cdef Target target = Target.__new__(Target)
        target.lease = lease
        target.lease._check_filling(self.attachment)
        memset(target.lease._page(), 0, target.lease.length)  # what the page held before is not the source's to see
        _clear_tail(self.mem, target.lease)
        return target

    cdef int write(self, lease, const char *data) except -1:
        cdef Lease filling = lease
        filling._check_filling(self.attachment)
        memcpy(filling._page(), data, filling.length)
        _clear_tail(self.mem, filling)
        return 0

    cdef int complete(self, lease, bint mark) except -1:
        cdef Lease filling = lease
        filling._check_filling(self.attachment)
        if mark:
            flags.set_readahead(self.mem, atomics.folio_at(self.mem, filling.pfn))
        filling.filling = False
        filemap.finish_fill(self.mem, self.attachment.me, filling.pfn)
        self.attachment.tidy()
        return 0

    cdef void explain(self, lease, bytes reason) noexcept:
        cdef Lease failed = lease
        if failed.filling and failed.epoch == self.attachment.epoch:
            memcpy(failed._page(), PyBytes_AS_STRING(reason), PyBytes_GET_SIZE(reason))
            failed.explained = True

    cdef int withdraw(self, lease) except -1:
        (<Lease>lease).release()
        return 0

    cdef object private(self, bytes content):
        cdef Lease lease = Lease.__new__(Lease)
        lease.attachment = self.attachment
        lease.epoch = self.attachment.epoch
        lease.private = content
        lease.data = PyBytes_AS_STRING(content)
        lease.length = PyBytes_GET_SIZE(content)
        return lease

    cdef u32 epoch(self) noexcept:
        return self.attachment.epoch

    cdef int count(self, u32 counter, u64 n) except -1:
        self.attachment.count(counter, n)
        return 0

    cdef bint reap(self) except -1:
        return self.attachment.reap()[0] > 0

    # The object.

    def invalidate(self):
        """Withdraw every folio of this object at this version. Leases that exist stay valid.

        Raises
        ------
        FoliocacheError
            The pool has been closed; or it could not be finished, because another process has stopped while it holds a lock of
            the pool.
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
    cdef bint _bind_units(self, Lease lease, u32 entry, u32 pfn, u64 index, u64 wanted) noexcept:
        """Bind a lease to unit index of a held folio, and to those behind it, ``wanted`` at most.

        Returns False for damaged tables. The pin is not given back then: nobody knows whose it is.
        """
        cdef u64 begin = (index - filemap.first_of(self.mem, pfn)) << self.shift
        cdef u64 length = self._more(pfn, begin, self._length(index), wanted)
        if not self._fits(pfn, begin + length):
            return False
        lease._bind(self.attachment, entry, pfn, begin, length)
        return True

    @cython.final
    cdef u64 _more(self, u32 pfn, u64 begin, u64 length, u64 wanted) noexcept:
        """Return the bytes of up to ``wanted`` units from byte begin of a held folio on; the first one has ``length``."""
        cdef u64 there = self._bytes(pfn, filemap.first_of(self.mem, pfn))
        return max(length, min(max(there, begin) - begin, wanted << self.shift))

    @cython.final
    cdef u64 _bytes(self, u32 pfn, u64 first) noexcept:
        """Return the bytes of a held folio whose first unit is ``first``; 0 if its words contradict each other."""
        cdef u64 length = atomics.read32(self.mem, atomics.folio_at(self.mem, pfn) + layout.F_LENGTH)
        cdef u64 expected = min(self.folio_size << page_type.span(self.mem, pfn), self.size - (first << self.shift))
        return expected if length == expected else 0

    @cython.final
    cdef bint _fits(self, u32 pfn, u64 length) noexcept:
        """Return True if so many bytes from pfn on are within the pool: the last check before bytes are handed out."""
        cdef u32 shift = atomics.page_shift(self.mem)
        return (<u64>pfn << shift) + length <= <u64>atomics.npages(self.mem) << shift

    @cython.final
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
        cdef u64 ino = filemap.open(self.mem, self.attachment.me, self.digest_lo, self.digest_hi, self.key_digest, self.size,
                                    self.order, self.height, text, self.key_length, length - self.key_length)
        if ino:
            self._bind(ino)
        return ino != 0


cdef void _clear_tail(mem_t mem, Lease lease) noexcept:
    """Behind the folio's last byte, to the end of its page: a window maps whole pages."""
    cdef Py_ssize_t page = 1 << atomics.page_shift(mem)
    memset(lease._page() + lease.length, 0, -lease.length & (page - 1))
