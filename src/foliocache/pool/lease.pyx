"""Pins as Python objects: the hit path, and the steps of a fill.

A hit is one call from Python into C: :meth:`FolioMap.lease` walks the index, takes a reference, checks that the folio is still
the one looked for (``mm.filemap.find_get``), reads the flags, and returns a :class:`Lease`, which holds the pin and exports the
bytes through the buffer protocol. Everything else goes to ``filler.miss.Filler``, which calls back the steps of a fill
(``filler.steps``).

While a folio is being filled, its filler's lease is also responsible for the fill (``filling``): if it is dropped before
``complete``, after whatever exception, it withdraws the folio and wakes the waiters. So no exit from a fill leaves a locked
folio behind. Only compiled frames hold such a lease: an exception ends them, while a traceback keeps the variables of Python
frames alive.

Every pin is recorded in a word of the process's ledger (``mm.client``), so that it can be dropped if the process is killed; the
lease has the number of its word. Every *operation* of the core (``filemap.add``, ``folio.release``) is one call, in which no
Python runs, with the GIL held, in a critical section of the attachment or in its turn (``section.h``), so a process has one
operation at a time. Whatever may take long (the source, waiting for
another filler) happens between operations. The lease object is made before its word and its pin are taken: no later step fails.

A lease with views in use keeps its pin: ``release`` then refuses new views, and the end of the last view drops the pin.
So ``numpy.frombuffer(lease)`` may outlive a ``with`` block.
"""
cimport cython
from cpython.buffer cimport PyBUF_FULL_RO, PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals, PyErr_Fetch, PyErr_Restore
from cpython.memoryview cimport PyMemoryView_FromObject
from cpython.number cimport PyNumber_AsSsize_t
from cpython.object cimport PyObject, PyTypeObject, destructor
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF
from libc.stdint cimport uint32_t as u32, uint64_t as u64
from libc.string cimport memcpy, memset

from .attachment cimport FREE_THREADED, Attachment, begin_step, end_step, enter, leave, section_t, spare
from .copies cimport Copy, new_copy
from .result cimport Result, Sink, new_result
from ..filler.buffers cimport LONG_MIN, clear_long, copy_long, get_writable
from ..filler.miss cimport Filler
from ..filler.steps cimport FAILED, FILLED, FOREIGN, LATE, OURS, Steps
from ..mm cimport atomics, backing, fill, layout, mapping
from ..mm.atomics cimport fc_mem, mem_t
from ..mm cimport client as statistics
from ..mm.inline cimport client, filemap, flags, folio, page_type
from ..observe import spans

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
    #define FC_REFUSE_NEW(type, function) \
        (((PyTypeObject *)(type))->tp_new = (newfunc)(function), ((PyTypeObject *)(type))->tp_vectorcall = NULL)
    """
    void prefetch "__builtin_prefetch" (const void *)
    long long digit "fc_digit" (object n)
    void FC_REFUSE_NEW(object type, void *function)
    void fc_set_lease(object method, void *function)

cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object n, int *overflow) except? -1

from ..filler.failure import RECORD_MAX
from .attachment import refused
from .private import is_writable
from ..errors import FoliocacheError, LeaseError
from ..sizes import integer

cdef extern from "<sys/mman.h>" nogil:
    int madvise(void *where, size_t length, int advice)

# One call of the source reads at most 1/READ_SHARE of the pool.
cdef u64 READ_SHARE = 4
cdef Py_ssize_t POPULATE_MIN = 64 << 10  # bytes; the pages of a larger folio are mapped in one call before it is written
cdef u64 RESULT_MIN = 4 << 20  # bytes; a longer result is written by the threads that fill the folios, too
cdef Py_ssize_t HUGE_MIN = 4 << 20  # bytes; a larger result gets huge pages, if the system has them
cdef u64 HUGE_PAGE = 2 << 20
cdef int MADV_HUGEPAGE = 14
cdef int MADV_POPULATE_WRITE = 23


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


@cython.final
@cython.no_gc
@cython.freelist(256)
@cython.auto_pickle(False)
cdef class Lease:
    """A pin on one folio, and its bytes: a read-only buffer of ``len(lease)`` bytes. ``lease[0]`` is the first byte, as an int.

    With ``writable="copy"`` the buffer may be written to: then only this process sees what it writes, and that is lost when the
    lease ends.

    Use it as a context manager, call `release`, or drop the last reference to it. While a view of it exists
    (``memoryview(lease)``, ``numpy.frombuffer(lease)``), its bytes stay mapped and pinned. Asking a read-only lease for a
    writable buffer raises BufferError; using a released lease, or one inherited by fork, raises LeaseError (a ValueError). It
    cannot be copied or pickled (TypeError).
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
        """``lease[n]`` is byte n, as an int; ``lease[a:b]`` is a memoryview."""
        cdef Py_ssize_t n
        if not isinstance(key, int):
            return memoryview(self)[key]
        with cython.critical_section(self.attachment):
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
        """Raise LeaseError unless this process is filling the lease's folio, and so may write to it."""
        if self.attachment is not attachment:
            raise LeaseError("this lease is another pool's")
        if self.epoch != attachment.epoch:
            raise LeaseError("this process was forked while it read from the source; the fill is the parent's to finish")
        if not self.filling:
            raise LeaseError("the folio of this lease is not being filled, and nobody may write to it")
        return 0

    def __getbuffer__(self, Py_buffer *buffer, int wanted):
        self._check()
        PyBuffer_FillInfo(buffer, self, <void *>self.data, self.length, not self.is_writable, wanted)
        if not FREE_THREADED:  # else it may have been released since
            self.views += 1
        elif not self._begin_view():
            self._check()

    def __releasebuffer__(self, Py_buffer *buffer):
        self._end_view()

    def __enter__(self):
        return self

    def __exit__(self, kind, value, traceback):
        self.release()

    def __repr__(self):
        state = "released" if self.released else "private" if self.private is not None else f"pfn {self.pfn}"
        return f"<Lease of {self.length} bytes, {state}>"

    def _repr_html_(self):
        """What a notebook shows."""
        from ..observe import html

        return html.lease(self.length, self.private is None, self.released)

    @property
    def cached(self):
        """False if all the bytes are a private copy, because every page of the pool was in use."""
        return not isinstance(self.private, (bytes, bytearray))

    cdef bint _begin(self, section_t *section) noexcept:
        """Begin what may drop the pin. The result is for ``end_step``. Withdrawing a fill, and the end of private bytes, is
        more than a step."""
        if self.private is None and not self.filling and self.attachment is not None:
            return begin_step(<PyObject *>self.attachment, section)
        enter(section, <PyObject *>self.attachment)
        return False

    cpdef release(self):
        """Drop the pin, now or when the last view of the lease ends. Releasing twice is harmless."""
        cdef section_t section
        cdef bint turn = FREE_THREADED and self._begin(&section)
        if not self.released:
            self.released = True
            if self.filling and self.epoch == self.attachment.epoch:
                self._fail()
            if self.views == 0:
                self._drop()
        end_step(<PyObject *>self.attachment, &section, turn)

    cdef bint _begin_view(self) noexcept:
        """Count a new view. False if the lease has been released, or belongs to another process."""
        cdef section_t section
        cdef bint turn = begin_step(<PyObject *>self.attachment, &section)
        cdef bint fine = not self.released and self.epoch == self.attachment.epoch
        self.views += fine
        end_step(<PyObject *>self.attachment, &section, turn)
        return fine

    cdef void _end_view(self) noexcept:
        cdef section_t section
        cdef bint turn = FREE_THREADED and self._begin(&section)
        self.views -= 1
        if self.released and self.views == 0:
            self._drop()
        end_step(<PyObject *>self.attachment, &section, turn)

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
        """Return the writable address of the folio's bytes; for its filler."""
        return (<const fc_mem *>self.attachment.mem).base + atomics.page_at(self.attachment.mem, self.pfn)

    cdef const char *_copyable(self) noexcept:
        """Return an address of the lease's bytes to copy them from: in the mapping for writing, if this process has the pages
        mapped there, since the first reads of the other mapping are page faults."""
        cdef const fc_mem *mem
        cdef u64 at
        if self.private is None and self.length >= POPULATE_MIN:
            mem = <const fc_mem *>self.attachment.mem
            at = self.data - mem.ro
            if self.attachment.is_touched(at, self.length):
                return mem.base + at
        return self.data

    cdef int _populate(self) except -1:
        """Map the folio's pages in one call, unless they are mapped: it takes half as long as the page faults do."""
        cdef char *page = self._page()
        cdef Py_ssize_t length = self.length
        if length < POPULATE_MIN or self.attachment.touch(atomics.page_at(self.attachment.mem, self.pfn), length):
            return 0
        with nogil:
            madvise(page, length, MADV_POPULATE_WRITE)  # older kernels refuse it, which is harmless
        return 0

    cdef void _bind(self, Attachment attachment, u32 entry, u32 pfn, u64 begin, Py_ssize_t length) noexcept:
        """Set a new lease to the pin in word ``entry`` of the ledger, and to ``length`` bytes of the folio from ``begin``."""
        self.data = (<const fc_mem *>attachment.mem).ro + atomics.page_at(attachment.mem, pfn) + begin
        prefetch(self.data)  # most users read the first byte next: load its cache line while the lease is made
        self.epoch = attachment.epoch
        self.entry = entry
        self.pfn = pfn
        self.length = length
        self.attachment = attachment


# Replaces a __dealloc__, around which Cython saves and restores the pending exception: 1/20 of a hit's time. _drop runs no
# Python and raises nothing. The object has no references left here, and _drop takes none.
cdef destructor _free_lease = (<PyTypeObject *>Lease).tp_dealloc


cdef void _end_lease(PyObject *lease) noexcept:
    cdef section_t section
    cdef bint turn
    if not (<Lease>lease).released:
        turn = FREE_THREADED and (<Lease>lease)._begin(&section)
        (<Lease>lease)._drop()
        end_step(<PyObject *>(<Lease>lease).attachment, &section, turn)
    _free_lease(lease)


(<PyTypeObject *>Lease).tp_dealloc = _end_lease


# A Lease without a pin cannot be made from Python; Lease.__new__ in this module does not call tp_new.

cdef object _no_lease(PyTypeObject *kind, PyObject *arguments, PyObject *keywords):
    raise TypeError("leases come from Mapping.lease()")


cdef object _no_target(PyTypeObject *kind, PyObject *arguments, PyObject *keywords):
    raise TypeError("a source is given the buffer that it is to fill; it cannot be made")


@cython.final
@cython.auto_pickle(False)
cdef class Target:
    """The writable bytes of a folio, while it is being filled.

    ``views`` is the number of views in use. A source that keeps one makes the fill fail. Each is also a view of the lease, so
    the page stays pinned, and gets no other content, as long as it can be written to.
    """
    def __init__(self):
        raise TypeError("a source is given the buffer that it is to fill; it cannot be made")

    def __reduce__(self):
        raise TypeError("the buffer that a source is to fill is a page of this process's pool, and cannot be copied or pickled")

    def __getbuffer__(self, Py_buffer *buffer, int wanted):
        PyBuffer_FillInfo(buffer, self, self.lease._page(), self.lease.length, 0, wanted)
        with cython.critical_section(self.lease.attachment):
            self.lease._check_filling(self.lease.attachment)
            self.views += 1
            self.lease.views += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        with cython.critical_section(self.lease.attachment):
            self.views -= 1
        self.lease._end_view()


FC_REFUSE_NEW(Lease, <void *>_no_lease)
FC_REFUSE_NEW(Target, <void *>_no_target)


cdef Lease new_lease():
    """Return a lease without a pin; for other modules, where ``Lease.__new__`` would call tp_new."""
    return Lease.__new__(Lease)


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
cdef class FolioMap(Steps):
    """The compiled part of a mapping: its object's identity, the size of its units, its index. Misses go to ``filler``."""
    def __init__(
        self, Attachment attachment not None, Filler filler not None, u64 size, u32 order, u32 height, bytes digest not None,
        bytes key_digest not None, bytes key not None, bytes version not None, u32 span, bint is_fixed, u64 stride
    ):
        """digest: 16 bytes, of key, version and size; key_digest: 8 bytes, of the key; key, version: text to show to people.
        A unit has 2^order pages; a new folio has up to 2^span units, or exactly so many if is_fixed. ``pieces`` reads
        ``stride`` bytes at a time."""
        if self.attachment is not None:
            raise TypeError("a mapping is one object at one version for as long as it lives; make another one")
        attachment.join()
        self.mem = attachment.mem
        self.size = size
        self.order = order
        self.span = span
        self.is_fixed = is_fixed
        self.height = height
        self.shift = atomics.page_shift(self.mem) + order
        self.unit_size = <u64>1 << self.shift
        self.stride = self._units(stride)
        self.most = max((<u64>backing.limit(self.mem) << atomics.page_shift(self.mem)) // READ_SHARE >> self.shift, <u64>1)
        self.digest_lo = int.from_bytes(digest[:8], "little")
        self.digest_hi = int.from_bytes(digest[8:16], "little")
        self.key_digest = int.from_bytes(key_digest, "little")
        self.text = key + version
        self.key_length = len(key)
        self.previous = layout.HASH_MASK
        with cython.critical_section(attachment):
            self._bind(filemap.resolve(self.mem, attachment.me, self.digest_lo, self.digest_hi))
        self.unit_count = self._units(size)
        self.identity = self.mem, digest
        filler.guard = attachment
        self.filler = filler
        self.attachment = attachment

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
        return self.lease(n + self.size if n < 0 else n, 1)[0]

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
        lease = Lease.__new__(Lease)
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
        if end - start >= RESULT_MIN:
            copy = new_bytes(end - start)
            self._gather(start, end, PyBytes_AS_STRING(copy), new_result(copy, start, self.shift))
            return copy
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
            raise ValueError(f"{what} must not be negative: {n}")
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
            raise IndexError(f"byte {n} of an object of {self.size}")
        return value

    cdef int _check(self) except -1:
        """Raise FoliocacheError if the mapping is not initialized or the pool is closed; for calls that do not use the pool."""
        if self.attachment is None:
            raise FoliocacheError("this mapping has never been initialized; mappings come from Pool.mapping()")
        self.attachment.check_open()
        return 0

    @cython.final
    cdef Py_ssize_t _length(self, u64 index) noexcept:
        return min(self.unit_size, self.size - (index << self.shift))

    @cython.final
    cdef u64 _units(self, u64 length) noexcept:
        """Return the number of units that hold ``length`` bytes."""
        return (length + self.unit_size - 1) >> self.shift

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

    cdef u64 probe(self, u64 index, bint filled) except? 0:
        cdef mem_t mem = self.mem
        cdef u32 pfn, seen
        cdef u64 there
        self.attachment.join()
        with cython.critical_section(self.attachment):
            pfn = filemap.lookup(mem, self.attachment.me, spare(), self.ino, self.head, self.mark, self.height, index)
            if pfn == layout.NIL:
                return 0
            seen = flags.load(mem, atomics.folio_at(mem, pfn))
            there = self._units(self._rest(pfn, index))
            if not folio.release(mem, self.attachment.me, spare(), pfn):
                self.attachment.wait(spare())
        return there if seen & layout.PG_UPTODATE or not filled else 0

    cdef object _lease_cached(self, u64 start, u64 most):
        """Do what ``lease_cached`` does, in a critical section."""
        cdef u64 index = start >> self.shift
        cdef u32 entry, pfn
        cdef u64 at
        cdef Lease lease = Lease.__new__(Lease)
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

    cdef void narrow(self, lease, u64 index) noexcept:
        self._bind_units(lease, (<Lease>lease).entry, (<Lease>lease).pfn, index)

    cdef object grab(self, u64 index, u64 count):
        self.attachment.join()
        with cython.critical_section(self.attachment):
            return self._grab(index, count)

    cdef Lease _grab(self, u64 index, u64 count):
        cdef u64 got = layout.GRAB_GONE
        cdef u32 entry
        cdef u32 span = 0
        cdef Lease lease = Lease.__new__(Lease)
        self.attachment.tidy()
        if not self.attachment.watching:
            self.attachment.before_memory()
        entry = self.attachment.take()
        if entry == layout.NIL:
            return None
        if self.is_fixed:
            span = self.span
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
        if not self._bind_units(lease, entry, <u32>got, index):
            return None
        if got & layout.GRAB_ADDED:
            lease.filling = True
            self.widen(lease)
            if lease.length == 0:
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
        """Wait until the fill of a pinned folio ends. Return the folio's flags.

        If the filler has died, this process is now the filler, and the lease is ``filling``, unless the content was complete.
        """
        cdef u32 pfn = lease.pfn
        cdef mem_t mem = self.mem
        cdef u64 deadline = atomics.now_ns() + timeout_ns
        cdef u64 now = 0
        cdef u32 seen = flags.load(mem, atomics.folio_at(mem, pfn))
        cdef section_t section
        # In slices: a signal that arrives just before the futex call does not interrupt it, and its handler must not wait for
        # the filler; and a filler that dies wakes no one.
        while seen & layout.PG_LOCKED and now < deadline:
            enter(&section, <PyObject *>self.attachment)
            lease.filling = fill.take_over(mem, self.attachment.me, pfn)
            leave(&section)
            if lease.filling:
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

    cdef object target(self, lease, bint clear):
        cdef Target target = Target.__new__(Target)
        target.lease = lease
        target.lease._check_filling(self.attachment)
        target.lease._populate()
        if clear:
            clear_long(target.lease._page(), target.lease.length)
        _clear_tail(self.mem, target.lease)
        return target

    cdef int write(self, lease, const char *data) except -1:
        cdef Lease filling = lease
        filling._check_filling(self.attachment)
        filling._populate()
        copy_long(filling._page(), data, filling.length)
        _clear_tail(self.mem, filling)
        return 0

    cdef int deliver(self, lease, result) except -1:
        cdef Lease filling = lease
        filling._check_filling(self.attachment)
        return (<Sink?>result).take(filemap.first_of(self.mem, filling.pfn) << self.shift, filling._page(), filling.length)

    cdef int complete(self, lease, bint mark) except -1:
        cdef Lease filling = lease
        filling._check_filling(self.attachment)
        if mark:
            flags.set_readahead(self.mem, atomics.folio_at(self.mem, filling.pfn))
        with cython.critical_section(self.attachment):
            filling.filling = False
            filemap.finish_fill(self.mem, self.attachment.me, filling.pfn)
            self.attachment.tidy()
        return 0

    cdef void explain(self, lease, bytes reason) noexcept:
        cdef Lease failed = lease
        with cython.critical_section(self.attachment):
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

    cdef int request(self, u32 source, u64 ns, u64 length, bint failed) except -1:
        if source < layout.SOURCE_KINDS:  # with tiers, there is one for each of them, and they count for themselves
            self.attachment.request(source, ns, length, failed)
        emit = spans.emit
        if emit is not None:
            emit("fill", self, source, ns, length, failed)
        return 0

    cdef int waited(self, u64 ns) except -1:
        cdef u32 me = self.attachment.number
        with cython.critical_section(self.attachment):
            statistics.record(self.mem, me, layout.STAT_WAITS, ns)
        emit = spans.emit
        if emit is not None:
            emit("wait", self, layout.SOURCE_KINDS, ns, 0, False)
        return 0

    cdef bint reap(self) except -1:
        return self.attachment.reap()[0] > 0

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
            raise refused(f"invalidate of {self.key!r}")

    @cython.final
    cdef inline bint _bind_units(self, Lease lease, u32 entry, u32 pfn, u64 index) noexcept:
        """Bind a lease to the units of a held folio from unit index on.

        Returns False if the tables are damaged. The pin is then kept: it is not known which folio it counts for.
        """
        cdef u64 begin = (index - filemap.first_of(self.mem, pfn)) << self.shift
        cdef u64 length = self._rest(pfn, index)
        if not self._fits(pfn, begin + length):
            return False
        lease._bind(self.attachment, entry, pfn, begin, length)
        return True

    @cython.final
    cdef inline u64 _rest(self, u32 pfn, u64 index) noexcept:
        """Return the number of bytes of a held folio from unit index on; one unit's if the folio's words contradict each
        other."""
        cdef u64 first = filemap.first_of(self.mem, pfn)
        cdef u64 there = self._bytes(pfn, first)
        cdef u64 begin = (index - first) << self.shift
        return there - begin if there > begin else <u64>self._length(index)

    @cython.final
    cdef inline u64 _bytes(self, u32 pfn, u64 first) noexcept:
        """Return the number of bytes of a held folio whose first unit is ``first``; 0 if its words contradict each other."""
        cdef u64 length = atomics.read32(self.mem, atomics.folio_at(self.mem, pfn) + layout.F_LENGTH)
        cdef u64 expected = min(self.unit_size << page_type.span(self.mem, pfn), self.size - (first << self.shift))
        return expected if length == expected else 0

    @cython.final
    cdef bint _fits(self, u32 pfn, u64 length) noexcept:
        """Return True if ``length`` bytes from page pfn on are within the pool: the last check before bytes are handed out."""
        cdef u32 shift = atomics.page_shift(self.mem)
        return (<u64>pfn << shift) + length <= <u64>atomics.npages(self.mem) << shift

    @cython.final
    cdef bint _is_ours(self, u64 at) noexcept:
        """Return True if the filled folio at this descriptor has this object's digest, and not only its ino.

        False only if a record was damaged, so that looking up one object finds another.
        """
        return atomics.read64(self.mem, at + layout.F_DIGEST) == self.digest_lo

    cdef void _bind(self, u64 ino) noexcept:
        self.ino = ino
        self.head = mapping.head(self.mem, ino)
        self.mark = mapping.mark(self.mem, ino)

    cdef bint _open(self) noexcept:
        """Find or make the object's record. False if the pool has no room for it, even after evicting folios."""
        cdef const char *text = PyBytes_AS_STRING(self.text)
        cdef u32 length = PyBytes_GET_SIZE(self.text)
        cdef u64 ino = filemap.open(self.mem, self.attachment.me, self.digest_lo, self.digest_hi, self.key_digest, self.size,
                                    self.order, self.height, text, self.key_length, length - self.key_length)
        if ino:
            self._bind(ino)
        return ino != 0


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


cdef void _clear_tail(mem_t mem, Lease lease) noexcept:
    """Zero the bytes after the folio's last one, up to the end of the page: a window maps whole pages."""
    cdef Py_ssize_t page = 1 << atomics.page_shift(mem)
    memset(lease._page() + lease.length, 0, -lease.length & (page - 1))
