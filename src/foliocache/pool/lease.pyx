"""Pins as Python objects.

Every pin is recorded in a word of the process's ledger (``mm.client``), so that it can be dropped if the process is killed; the
lease has the number of its word. Every *operation* of the core (``filemap.add``, ``folio.release``) is one call, in which no
Python runs, with the GIL held, in a critical section of the attachment or in its turn (``section.h``), so a process has one
operation at a time. Whatever may take long (the source, waiting for another filler) happens between operations. The lease
object is made before its word and its pin are taken: no later step fails.

While a folio is being filled, its filler's lease is also responsible for the fill (``filling``): if it is dropped before the
fill is complete, after whatever exception, it withdraws the folio and wakes the waiters. So no exit from a fill leaves a locked
folio behind. Only compiled frames hold such a lease: an exception ends them, while a traceback keeps the variables of Python
frames alive.

A lease with views in use keeps its pin: ``release`` then refuses new views, and the end of the last view drops the pin.
So ``numpy.frombuffer(lease)`` may outlive a ``with`` block.
"""
cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.number cimport PyNumber_AsSsize_t
from cpython.object cimport PyObject, PyTypeObject, destructor
from libc.stdint cimport uint64_t as u64

from .attachment cimport FREE_THREADED, Attachment, begin_step, end_step, enter, section_t
from ..mm cimport atomics
from ..mm.atomics cimport fc_mem, mem_t
from ..mm.inline cimport filemap, folio

from ..errors import LeaseError

cdef extern from "<sys/mman.h>" nogil:
    int madvise(void *where, size_t length, int advice)

cdef Py_ssize_t POPULATE_MIN = 64 << 10  # bytes; the pages of a larger folio are mapped in one call before it is written
cdef int MADV_POPULATE_WRITE = 23


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
        """Map the folio's pages in one call, unless they are mapped: that takes half as long as page faults do. In a pool that
        has its memory in huge pages, map all of those that the folio is in: the marks of its chunks say that they are there."""
        cdef mem_t mem = self.attachment.mem
        cdef u64 begin = atomics.page_at(mem, self.pfn), end = begin + <u64>self.length
        cdef u64 chunk = <u64>1 << atomics.chunk_shift(mem)
        if self.length < POPULATE_MIN:
            return 0
        if chunk > <u64>POPULATE_MIN:
            begin -= (begin - atomics.data(mem)) & (chunk - 1)
            end = min(end + ((atomics.data(mem) - end) & (chunk - 1)), (<const fc_mem *>mem).size)
        if self.attachment.touch(begin, end - begin):
            return 0
        with nogil:
            madvise((<const fc_mem *>mem).base + begin, end - begin, MADV_POPULATE_WRITE)  # older kernels refuse it: harmless
        return 0


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
@cython.no_gc  # the end of a view needs the lease, also where both are garbage; and no cycle leads through a lease
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


cdef Target new_target(Lease lease):
    """Return the bytes of a lease's folio, for the source that fills it."""
    cdef Target target = Target.__new__(Target)
    target.lease = lease
    return target
