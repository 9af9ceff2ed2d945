"""Reads of an object: the hit path.

A hit is one call from Python into C: :meth:`FolioMap.lease` walks the index, takes a reference, checks that the folio is still
the one looked for (``mm.filemap.find_get``), reads the flags, and returns a :class:`Lease`, which holds the pin and exports the
bytes through the buffer protocol. Everything else goes to ``filler.miss.Filler``, which calls back the steps of a fill
(``folio_steps``).
"""
cimport cython
from cpython.buffer cimport PyBUF_FULL_RO, PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_Fetch, PyErr_Restore
from cpython.memoryview cimport PyMemoryView_FromObject
from cpython.number cimport PyNumber_AsSsize_t
from cpython.object cimport PyObject, PyTypeObject
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF
from libc.stdint cimport uint32_t as u32, uint64_t as u64
from libc.string cimport memcpy

from .attachment cimport begin_step, end_step, enter, leave, section_t, spare
from .copies cimport Copy, new_copy
from .folio_steps cimport FolioSteps
from .lease cimport FC_REFUSE_NEW, Lease, new_lease
from .result cimport RESULT_MIN, Result, check, new_result
from ..filler.buffers cimport LONG_MIN, copy_long, get_writable
from ..mm cimport atomics, layout
from ..mm.atomics cimport fc_mem, mem_t
from ..mm.inline cimport client, filemap, flags, folio, page_type

cdef extern from *:
    """
    /* Returns the value of an int that fits in 63 bits (the fast path is for ints of one digit); below 0 for anything else. */
    static inline long long fc_digit(PyObject *n)
    {
        if (!PyLong_CheckExact(n))
            return -1;
    #if PY_VERSION_HEX >= 0x030C0000
        if (PyUnstable_Long_IsCompact((PyLongObject *)n))
            return PyUnstable_Long_CompactValue((PyLongObject *)n);
    #else
        if (Py_SIZE(n) == 1)
            return ((PyLongObject *)n)->ob_digit[0];
    #endif
        int overflow;
        return PyLong_AsLongLongAndOverflow(n, &overflow);
    }
    /* A lease is mostly asked for by its offset alone, and Cython's parsing of a second argument is a twentieth of a hit. */
    typedef PyObject *(*fc_parsed)(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names);
    typedef PyObject *(*fc_of_one)(PyObject *self, PyObject *offset);
    static fc_parsed fc_lease_parsed;
    static fc_of_one fc_lease_from;

    static PyObject *fc_lease(PyObject *self, PyObject *const *args, Py_ssize_t n, PyObject *names)
    {
        return n == 1 && names == NULL ? fc_lease_from(self, args[0]) : fc_lease_parsed(self, args, n, names);
    }

    static void fc_set_lease(PyObject *method, void *from)
    {
        PyMethodDef *definition = ((PyMethodDescrObject *)method)->d_method;
        if (definition->ml_flags != (METH_FASTCALL | METH_KEYWORDS))
            return;
        fc_lease_parsed = (fc_parsed)(void (*)(void))definition->ml_meth;
        fc_lease_from = (fc_of_one)from;
        definition->ml_meth = (PyCFunction)(void (*)(void))fc_lease;
    }
    """
    long long digit "fc_digit" (object n)
    void fc_set_lease(object method, void *function)

cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object n, int *overflow) except? -1

from .attachment import refused
from .private import is_writable
from ..errors import FoliocacheError
from ..sizes import integer, quoted

cdef extern from "<sys/mman.h>" nogil:
    int madvise(void *where, size_t length, int advice)

cdef Py_ssize_t HUGE_MIN = 4 << 20  # bytes; a larger result gets huge pages, if the system has them
cdef u64 HUGE_PAGE = 2 << 20
cdef int MADV_HUGEPAGE = 14


cdef bytes new_bytes(Py_ssize_t length):
    """Return a new bytes object to write to. The page faults of fresh memory take longer than all else, so a long one gets huge
    pages."""
    cdef bytes made = PyBytes_FromStringAndSize(NULL, length)
    cdef u64 begin, end
    if length >= HUGE_MIN:
        begin = (<u64>PyBytes_AS_STRING(made) + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1)
        end = (<u64>PyBytes_AS_STRING(made) + length) & ~(HUGE_PAGE - 1)
        madvise(<void *>begin, end - begin, MADV_HUGEPAGE)  # an error is harmless
    return made


cdef int _fill_buffer(FolioMap of, Py_buffer *buffer, int wanted) except -1:
    """Give the bytes of a window of all of a mapping. The buffer keeps the window until it is released."""
    from .window import open_window  # here, because it imports this module

    cdef Py_buffer inner
    window = open_window(of, 0, None) if wanted == PyBUF_FULL_RO else _kept_window(of)
    PyObject_GetBuffer(window, &inner, PyBUF_SIMPLE)
    try:
        PyBuffer_FillInfo(buffer, of, inner.buf, inner.len, True, wanted)
    finally:
        PyBuffer_Release(&inner)
    Py_INCREF(window)
    buffer.internal = <void *>window
    return 0


cdef object _kept_window(FolioMap of):
    """Return the window that the mapping keeps as long as it lives, for callers that release the buffer, and use its bytes as
    long as they have the mapping: ``numpy.ndarray(..., buffer=mapping)`` and ``torch.frombuffer(mapping)``. A memoryview, which
    asks for PyBUF_FULL_RO, does not."""
    from .window import open_window  # as above

    of._check()
    window = of._kept
    if window is None or not window._is_ours():
        window = open_window(of, 0, None)
        window._let_go()
        with cython.critical_section(of):
            kept = of._kept
            if kept is None or not kept._is_ours():
                of._kept = window
            else:
                window = kept
    return window


@cython.auto_pickle(False)
cdef class FolioMap(FolioSteps):
    """The compiled part of a mapping: the reads of its object. Misses go to ``filler``."""
    def __len__(self):
        self._check()
        return self.size

    def __getitem__(self, key):
        """``mapping[a:b]`` is a copy of those bytes; ``mapping[n]`` is byte n, as an int."""
        cdef Py_ssize_t n
        self._check()
        if isinstance(key, slice):
            start, stop, step = key.indices(self.size)
            if step != 1:
                raise ValueError(f"a mapping is read by slices of consecutive bytes, not with a step of {step}")
            return self.read_bytes(start, max(stop - start, 0))
        n = PyNumber_AsSsize_t(key, IndexError)
        if n < 0:
            n += <Py_ssize_t>self.size
            if n < 0:
                raise IndexError(f"byte {key} of an object of {self.size}")
        return self.lease(n, 1)[0]

    def __getbuffer__(self, Py_buffer *buffer, int wanted):
        """``memoryview(mapping)`` is a view of a window of all of the object, which lives as long as the view."""
        cdef PyObject *kind
        cdef PyObject *value
        cdef PyObject *traceback
        PyErr_Fetch(&kind, &value, &traceback)  # PyTorch asks once more while the error of its first try is set
        try:
            _fill_buffer(self, buffer, wanted)
        except BaseException:
            Py_XDECREF(kind)
            Py_XDECREF(value)
            Py_XDECREF(traceback)
            raise
        PyErr_Restore(kind, value, traceback)

    def __releasebuffer__(self, Py_buffer *buffer):
        Py_DECREF(<object>buffer.internal)

    def lease(self, offset, length=None, *, writable=None):
        """Pin bytes of the object in the pool, without a copy. If they are not cached, they are read from the source.

        A lease has bytes of one folio, and folios differ in size. Use `read` for a range as one buffer, `pieces` for a range as
        leases.

        Parameters
        ----------
        offset : int
            The first byte.
        length : int, optional
            The most bytes to lease, at least 1. By default all up to the end of the folio that has the byte at ``offset``.
        writable : {"copy"}, optional
            The bytes may be written to. Each page that is written becomes a copy, which only this process sees, and which is
            lost when the lease ends.

        Returns
        -------
        Lease
            At least one byte: those from ``offset`` to the end of the folio, but at most ``length``.

        Raises
        ------
        IndexError
            The object has no byte at ``offset``.
        SourceError
            The source did not return the bytes, or the mapping has no source.
        FoliocacheError
            The pool has been closed.
        Exception
            Whatever the source raises.
        """
        cdef u64 start = self._offset(offset)
        cdef u64 most
        cdef Lease lease
        cdef bint wanted = writable is not None and is_writable(writable)
        if length is None:
            lease = self._lease(start, self.size - start, 1)
        else:
            most = self._clip(length, "length")
            if most == 0:
                raise ValueError("a lease has at least 1 byte; read(offset, 0) gives an empty view")
            lease = self._lease(start, min(most, self.size - start), self.most)
        return _private(lease) if wanted else lease

    def lease_cached(self, offset, length=None):
        """Pin bytes that are cached, as `lease` does, without reading from the source or waiting. It is not a use of them.

        Parameters
        ----------
        offset : int
            The first byte.
        length : int, optional
            The most bytes to lease, at least 1. By default all up to the end of the folio that has the byte at ``offset``.

        Returns
        -------
        Lease or None
            As `lease`; None if the byte at ``offset`` is not cached, or is still being read.

        Raises
        ------
        IndexError
            The object has no byte at ``offset``.
        FoliocacheError
            The pool has been closed.
        """
        cdef u64 start = self._offset(offset)
        cdef u64 most = self.size - start if length is None else min(self._clip(length, "length"), self.size - start)
        if most == 0:
            raise ValueError("a lease has at least 1 byte")
        self.attachment.join()
        with cython.critical_section(self.attachment):
            return self._lease_cached(start, most)

    def pieces(self, offset=0, length=None):
        """Return a range of the object as leases, one after the other, without a copy and without pinning all of it.

        Parameters
        ----------
        offset : int
            The first byte.
        length : int, optional
            How many bytes, cut off at the end of the object. By default all up to the end.

        Returns
        -------
        iterator of Lease
            Each lease has the bytes that follow those of the one before, up to the end of their folio. It is pinned until it is
            released or dropped; the iterator keeps none. If all pages of the pool are pinned, the lease has a private copy
            (``cached`` is False). Missing bytes are read when the iterator gets to them, and some bytes ahead. After ``next``
            has raised, it may be called again. Only one thread at a time may use an iterator.

        Raises
        ------
        SourceError
            From ``next``: the source did not return the bytes, or the mapping has no source.
        FoliocacheError
            The pool has been closed.
        Exception
            From ``next``: whatever the source raises.
        """
        cdef Pieces pieces = Pieces.__new__(Pieces)
        self._check()
        pieces.place = self._clip(offset, "offset")
        pieces.end = self.size if length is None else pieces.place + min(self._clip(length, "length"), self.size - pieces.place)
        pieces.mapping = self
        return pieces

    @cython.final
    cdef Lease _lease(self, u64 start, u64 most, u64 limit):
        """Return a lease on the bytes from start on: at most ``most``, and up to the end of their folio. The object must have
        byte start. A miss reads ``most`` bytes, but at most ``limit`` units."""
        cdef mem_t mem = self.mem
        cdef u64 index = start >> self.shift
        cdef u32 entry, pfn, seen
        cdef u64 at, first, end
        cdef section_t section
        cdef bint turn
        cdef Lease lease
        if not self.attachment.joined:
            self.attachment.join()
        lease = new_lease()
        turn = begin_step(<PyObject *>self.attachment, &section)
        entry = self.attachment.take()
        if entry == layout.NIL:
            end_step(<PyObject *>self.attachment, &section, turn)
            return self._cut(self._copy(index), start, most)
        pfn = filemap.lookup(mem, self.attachment.me, entry, self.ino, self.head, self.mark, self.height, index)
        if pfn == layout.NIL:
            self.attachment.give(entry)
            end_step(<PyObject *>self.attachment, &section, turn)
            return self._miss(start, most, limit)
        # The body of _bind_units: calling it would take 1/20 of a hit's time.
        first = filemap.first_of(mem, pfn)
        end = (first << self.shift) + self._bytes(pfn, first)
        if end <= start:
            end = (index << self.shift) + self._length(index)
        end = min(end, start + most)
        if not self._fits(pfn, end - (first << self.shift)):
            end_step(<PyObject *>self.attachment, &section, turn)
            return self._miss(start, most, limit)
        lease._bind(self.attachment, entry, pfn, start - (first << self.shift), end - start)
        at = atomics.folio_at(mem, pfn)
        seen = flags.load(mem, at)
        if not seen & layout.PG_UPTODATE:
            end_step(<PyObject *>self.attachment, &section, turn)
            return self._join(lease, start, most, limit)
        if not self._is_ours(at):
            end_step(<PyObject *>self.attachment, &section, turn)
            return self._cut(self.filler.read_privately(self, index), start, most)
        if not seen & layout.PG_REFERENCED:
            flags.mark_referenced(mem, at, seen)
        client.count(mem, self.attachment.me, layout.COUNT_HITS, 1)
        end_step(<PyObject *>self.attachment, &section, turn)
        if seen & layout.PG_READAHEAD:
            self._read_ahead(pfn, (end - 1) >> self.shift)
        self.previous = (end - 1) >> self.shift
        return lease

    cdef Lease _miss(self, u64 start, u64 most, u64 limit):
        """Return what ``_lease`` returns, for bytes that are not cached."""
        cdef u64 index = start >> self.shift
        cdef u64 wanted = min(self._units(start + most) - index, limit)
        return self._use(self.filler.miss(self, index, wanted), start, most)

    cdef Lease _join(self, Lease lease, u64 start, u64 most, u64 limit):
        """Return what ``_lease`` returns, when another client or thread is filling the lease's folio."""
        cdef u64 index = start >> self.shift
        cdef u64 wanted = min(self._units(start + most) - index, limit)
        self.narrow(lease, index)
        return self._use(self.filler.join(self, lease, index, wanted), start, most)

    cdef int _read_ahead(self, u32 pfn, u64 last) except -1:
        """Unit ``last`` of a folio with the readahead mark was used: have the next window read, if it is time for that."""
        cdef u64 first = filemap.first_of(self.mem, pfn)
        cdef u64 behind = first + (<u64>1 << page_type.span(self.mem, pfn))
        if self.filler.has_reached(first, behind, last):
            if flags.clear(self.mem, atomics.folio_at(self.mem, pfn), layout.PG_READAHEAD):
                self.filler.read_ahead_from(self, first, behind)
        return 0

    cdef Lease _cut(self, Lease lease, u64 start, u64 most):
        """Cut a lease that begins with a unit to the bytes from start on, at most ``most``."""
        cdef u64 begin = start & (self.unit_size - 1)
        lease.data += begin
        lease.length = min(<u64>lease.length - begin, most)
        return lease

    cdef Lease _use(self, Lease lease, u64 start, u64 most):
        """Do what ``_cut`` does, with a lease that comes from the filler."""
        self._cut(lease, start, most)
        self.previous = (start + lease.length - 1) >> self.shift
        if lease.private is None and flags.load(self.mem, atomics.folio_at(self.mem, lease.pfn)) & layout.PG_READAHEAD:
            self._read_ahead(lease.pfn, self.previous)  # a reader that continues after this folio never hits it
        return lease

    def read_bytes(self, offset, length):
        """Return a range of the object as ``bytes``, copied once.

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
            The source did not return the bytes, or the mapping has no source.
        FoliocacheError
            The pool has been closed.
        Exception
            Whatever the source raises.
        """
        cdef u64 start = self._clip(offset, "offset")
        cdef u64 end = start + min(self._clip(length, "length"), self.size - start)
        cdef Lease lease
        cdef bytes copy
        if start == end:
            self._check()
            return b""
        if end - start >= <u64>RESULT_MIN:
            return self._long_bytes(start, end, None)
        lease = self._lease(start, end - start, self.most)
        if <u64>lease.length == end - start:
            if lease.length < LONG_MIN:
                copy = PyBytes_FromStringAndSize(lease.data, end - start)
            else:
                copy = new_bytes(end - start)
                copy_long(PyBytes_AS_STRING(copy), lease._copyable(), end - start)
            lease.release()
            return copy
        copy = new_bytes(end - start)
        self._gather(start, end, PyBytes_AS_STRING(copy))  # no one else has this object yet, so it may be written to
        return copy

    cdef bytes _long_bytes(self, u64 start, u64 end, ended):
        """Return a range of at least RESULT_MIN bytes, copied once. ended: see `Result`."""
        cdef bytes copy = new_bytes(end - start)
        self._gather(start, end, PyBytes_AS_STRING(copy), new_result(copy, start, self.shift, ended))
        return copy

    def read(self, offset, length):
        """Return a range of the object as a read-only view.

        If one folio has all of the range, it is a view of that folio, without a copy, and keeps the folio pinned. Otherwise it
        is a view of a copy, gathered in pieces of at most 1/4 of the pool.

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
            The source did not return the bytes, or the mapping has no source.
        FoliocacheError
            The pool has been closed.
        Exception
            Whatever the source raises.
        """
        cdef u64 start = self._clip(offset, "offset")
        cdef u64 end = start + min(self._clip(length, "length"), self.size - start)
        cdef Lease lease
        if start == end:
            self._check()
            return memoryview(b"")
        lease = self._lease(start, end - start, self.most)
        if <u64>lease.length != end - start:
            return memoryview(self.read_bytes(start, end - start))
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
            The number of bytes written: less than the buffer's size only at the object's end.

        Raises
        ------
        TypeError
            The buffer is read-only, not contiguous, or of something else than bytes or numbers.
        SourceError
            The source did not return the bytes, or the mapping has no source.
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

    def copy_all(self):
        """Return a copy of the object that may be written to."""
        cdef Copy copy = new_copy(self.size)
        if self.size:
            self._gather(0, self.size, copy.data())
        return copy

    cdef int _gather(self, u64 start, u64 end, char *target, Result result=None) except -1:
        """Copy a range, each folio as soon as it is filled. A miss requests what remains of it, but at most ``most`` units;
        more is requested as they are copied. result: that of ``target``; the threads that fill the folios then copy them."""
        cdef u64 place = start, asked = 0
        cdef Lease lease
        while place < end:
            if result is not None:
                check(result.ended)
            lease = self._lease_for(place, end - place, result)
            if result is None:
                copy_long(target + (place - start), lease._copyable(), lease.length)
            elif not result.has(place, lease.length):
                copy_long(target + (place - start), lease._copyable(), lease.length)
                result.note(place, lease.length)  # before the lease ends, after which the folio may be filled again
            place += lease.length
            asked = self.filler.keep_ahead(self, place >> self.shift, asked, self._units(end), self.most, result)
        return 0

    cdef Lease _lease_for(self, u64 start, u64 most, Result result):
        """Return what ``_lease`` returns. What a miss requests is delivered to the result, too."""
        cdef u64 index = start >> self.shift
        if result is None or self.probe(index, False):
            return self._lease(start, most, self.most)
        return self._use(self.filler.miss(self, index, min(self._units(start + most) - index, self.most), result), start, most)

    @cython.final
    cdef u64 _clip(self, n, what) except? 0xFFFFFFFFFFFFFFFF:
        """Return an offset or a length as a number, at most the object's size. Raises ValueError if it is negative."""
        cdef long long value = digit(n)
        return min(<u64>value, self.size) if value >= 0 else self._clip_any(n, what)

    cdef u64 _clip_any(self, n, what) except? 0xFFFFFFFFFFFFFFFF:
        cdef int overflow = 0
        cdef long long value = PyLong_AsLongLongAndOverflow(integer(n, what), &overflow)
        if value < 0 and overflow <= 0:
            raise ValueError(f"{what} must not be negative: {quoted(n)}")
        return self.size if overflow else min(<u64>value, self.size)

    @cython.final
    cdef u64 _offset(self, n) except? 0xFFFFFFFFFFFFFFFF:
        """Return the offset of one of the object's bytes as a number. Raises IndexError if the object has no such byte."""
        cdef long long value = digit(n)
        return value if 0 <= value and <u64>value < self.size else self._offset_any(n)

    cdef u64 _offset_any(self, n) except? 0xFFFFFFFFFFFFFFFF:
        cdef int overflow = 0
        cdef long long value = PyLong_AsLongLongAndOverflow(integer(n, "offset"), &overflow)
        if overflow or value < 0 or <u64>value >= self.size:
            self._check()
            raise IndexError(f"byte {quoted(n)} of an object of {self.size}")
        return value

    cdef int _check(self) except -1:
        """Raise FoliocacheError if the mapping is not initialized or the pool is closed; for calls that do not use the pool."""
        if self.attachment is None:
            raise FoliocacheError("this mapping has never been initialized; mappings come from Pool.mapping()")
        self.attachment.check_open()
        return 0

    def is_cached(self, offset=0, length=None):
        """Return whether all of a range of the object is cached. This does not count as a use of the folios.

        Parameters
        ----------
        offset : int
            The first byte.
        length : int, optional
            How many bytes, cut off at the end of the object. By default all up to the end.

        Returns
        -------
        bool
            True also for an empty range.

        Raises
        ------
        FoliocacheError
            The pool has been closed.
        """
        cdef u64 start = self._clip(offset, "offset")
        cdef u64 end = self.size if length is None else start + min(self._clip(length, "length"), self.size - start)
        cdef u64 index = start >> self.shift
        cdef u64 there = 1
        self._check()
        while there and index << self.shift < end:
            there = self.probe(index, True)
            index += there
        return there != 0

    cdef object _lease_cached(self, u64 start, u64 most):
        """Do what ``lease_cached`` does, in a critical section."""
        cdef u64 index = start >> self.shift
        cdef u32 entry, pfn
        cdef u64 at
        cdef Lease lease = new_lease()
        entry = self.attachment.take()
        if entry == layout.NIL:
            return None
        pfn = filemap.lookup(self.mem, self.attachment.me, entry, self.ino, self.head, self.mark, self.height, index)
        if pfn == layout.NIL:
            self.attachment.give(entry)
            return None
        at = atomics.folio_at(self.mem, pfn)
        if not self._bind_units(lease, entry, pfn, index) or not flags.load(self.mem, at) & layout.PG_UPTODATE:
            return None
        return self._cut(lease, start, most) if self._is_ours(at) else None

    cdef Lease _copy(self, u64 index):
        """Return a lease on a private copy of unit index, when every word of the ledger is in use."""
        cdef Lease copy = self._copy_cached(index)
        return self.filler.read_privately(self, index) if copy is None else copy

    cdef Lease _copy_cached(self, u64 index):
        """Return a lease on a private copy of unit index if it is cached, else None."""
        cdef mem_t mem = self.mem
        cdef bytes content = PyBytes_FromStringAndSize(NULL, self._length(index))
        cdef const char *data
        cdef bint copied = False
        cdef u64 at, begin
        cdef u32 pfn
        cdef section_t section
        enter(&section, <PyObject *>self.attachment)
        pfn = filemap.lookup(mem, self.attachment.me, spare(), self.ino, self.head, self.mark, self.height, index)
        if pfn != layout.NIL:
            at = atomics.folio_at(mem, pfn)
            begin = (index - filemap.first_of(mem, pfn)) << self.shift
            if self._fits(pfn, begin + self._length(index)) and flags.load(mem, at) & layout.PG_UPTODATE and self._is_ours(at):
                data = (<const fc_mem *>mem).ro + atomics.page_at(mem, pfn) + begin
                memcpy(PyBytes_AS_STRING(content), data, PyBytes_GET_SIZE(content))
                copied = True
            if not folio.release(mem, self.attachment.me, spare(), pfn):
                self.attachment.wait(spare())
        leave(&section)
        return self.private(content) if copied else None

    # The object.

    def invalidate(self):
        """Withdraw every folio of this object at this version. Leases that exist stay valid.

        Raises
        ------
        FoliocacheError
            The pool has been closed; or this could not be finished, because another process has stopped while it holds a lock
            of the pool.
        """
        cdef bint done = True
        self._check()
        self.attachment.join()
        if self.unit_count:
            with cython.critical_section(self.attachment):
                done = filemap.invalidate(self.mem, self.attachment.me, self.digest_lo, self.digest_hi, self.unit_count - 1)
                self.attachment.tidy()
        if not done:
            raise refused(f"invalidate of {quoted(self.key)}")

@cython.final
@cython.auto_pickle(False)
cdef class Pieces:
    """What ``Mapping.pieces`` returns: an iterator of a range's leases, in order. It keeps none of them."""
    def __init__(self):
        raise TypeError("pieces come from Mapping.pieces()")

    def __reduce__(self):
        raise TypeError("an iterator of leases cannot be copied or pickled; ask the mapping for its pieces again")

    def __iter__(self):
        return self

    def __next__(self):
        cdef FolioMap of = self.mapping
        cdef u64 place = self.place
        cdef Lease lease
        if place >= self.end:
            raise StopIteration
        lease = of._lease(place, self.end - place, of.stride)
        self.place = place + <u64>lease.length
        return lease


cdef object _no_pieces(PyTypeObject *kind, PyObject *arguments, PyObject *keywords):
    raise TypeError("pieces come from Mapping.pieces()")


FC_REFUSE_NEW(Pieces, <void *>_no_pieces)


cdef Lease _private(Lease lease):
    """Return a lease on private pages with the bytes of another, which may be written to."""
    from .window import private_lease  # here, because it imports this module

    return private_lease(lease)


cdef Lease _lease_from(FolioMap of, offset):
    """Return what ``FolioMap.lease(offset)`` returns."""
    cdef u64 start = of._offset(offset)
    return of._lease(start, of.size - start, 1)


fc_set_lease(FolioMap.__dict__["lease"], <void *>_lease_from)
