"""Windows: consecutive folios as one contiguous buffer, without a copy; and private pages that may be written to.

If the folios of a read-only window lie one after the other in the segment, the window is a part of the segment's read-only
mapping. Otherwise it reserves address space, and maps each run of such folios into it from the segment's file.

A window of few folios pins each of them, as a lease does. One of more has a page table (``mm.pagetable``) with an entry for
each unit: the entry of a folio's first unit in the window owns a reference, and the others are empty. So none of the folios is
evicted while the window is open. How many are few depends on how many pins the process has left. In the worst case each folio
is a mapping of its own: ``vm.max_map_count`` (65,530 by default) bounds how many a process can have.
"""
cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.object cimport PyObject, PyTypeObject
from libc.errno cimport errno
from libc.stdint cimport uint32_t as u32, uint64_t as u64
from libc.stdlib cimport free, realloc
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED
from posix.mman cimport PROT_NONE, PROT_READ, PROT_WRITE, mmap, munmap

import os

from ..errors import FoliocacheError, LeaseError
from ..sizes import integer, quoted

from .attachment cimport Attachment
from .folio_map cimport FolioMap
from .lease cimport Lease, new_lease
from .overlay cimport Overlay, overlay_of
from ..mm cimport atomics, backing, layout, pagetable
from ..mm.atomics cimport fc_mem, mem_t
from ..mm.inline cimport folio

from .private import is_writable, watch

cdef extern from *:
    """
    static inline void fc_touch(char *at) { __atomic_fetch_or(at, 0, __ATOMIC_RELAXED); }
    """
    void touch "fc_touch" (char *at)

cdef size_t PAGE = 4096  # bytes of the smallest page of any machine
cdef u32 PINS_MAX = 256  # of a window without a page table; to make and release a table takes as long as some 100 pins
cdef u32 PINS_FEW = 8  # the same in a process that has not more than SPARE words of its ledger left
cdef u32 SPARE = layout.PINS // 2

cdef struct Pin:
    u32 unit  # of the window
    u32 entry
    u32 pfn


cdef void *_map(void *at, size_t size, Attachment attachment, u64 place, bint is_private) except NULL:
    """Map ``size`` bytes of the segment, from ``place`` on, at an address that is reserved, or anywhere if that is NULL: for
    reading, or privately. Return where."""
    cdef int rights = PROT_READ | PROT_WRITE if is_private else PROT_READ
    cdef int kind = MAP_PRIVATE | MAP_NORESERVE if is_private else MAP_SHARED
    cdef void *found = mmap(at, size, rights, kind | (MAP_FIXED if at else 0), attachment.segment.fd_to_read, place)
    if found == MAP_FAILED:
        raise FoliocacheError(f"{size} bytes of the pool cannot be mapped: {os.strerror(errno)} (see vm.max_map_count)")
    return found


cdef void _copy_pages(char *base, size_t size) noexcept:
    """Make a private copy of every page of a private mapping, without changing its content."""
    cdef size_t at = 0
    while at < size:
        touch(base + at)  # atomically: another thread may be writing to the same byte
        at += PAGE


cdef u64 _place(Lease lease):
    """Return where in the segment the first byte of a lease on a folio is."""
    return lease.data - (<const fc_mem *>lease.attachment.mem).ro


cdef object _holds_all():
    return FoliocacheError(f"this process holds {layout.PINS - 1} leases and windows, as many as it can; release some")


cdef size_t _whole(size_t size, Attachment attachment) noexcept:
    """Return the number of bytes of the pages that hold ``size`` bytes."""
    cdef size_t page = 1 << atomics.page_shift(attachment.mem)
    return (size + page - 1) & ~(page - 1)


@cython.final
@cython.auto_pickle(False)
cdef class PrivatePages:
    """The pages that a lease is of, mapped privately. They keep the lease, so its folio stays pinned."""
    cdef Lease lease
    cdef char *base
    cdef size_t size
    cdef object __weakref__

    def __init__(self):
        raise TypeError("private pages come from Mapping.lease()")

    def __reduce__(self):
        raise TypeError("private pages are mapped into this process, and cannot be copied or pickled")

    def __dealloc__(self):
        if self.base:
            munmap(self.base, self.size)

    def _copy_all(self):
        _copy_pages(self.base, self.size)


def private_lease(Lease lease not None):
    """Return a lease with the bytes of another, which may be written to. The other must have no further users."""
    cdef Lease copy = new_lease()
    cdef PrivatePages pages
    cdef u64 place, begin
    if lease.private is not None:
        copy.private = bytearray(lease.data[:lease.length])
        copy.data = PyByteArray_AS_STRING(copy.private)
    else:
        place = _place(lease)
        begin = place & (PAGE - 1)
        pages = PrivatePages.__new__(PrivatePages)
        pages.lease = lease
        pages.size = (begin + lease.length + PAGE - 1) & ~(PAGE - 1)
        pages.base = <char *>_map(NULL, pages.size, lease.attachment, place - begin, True)
        watch(pages)
        copy.pfn = lease.pfn
        copy.private = pages
        copy.data = pages.base + begin
    copy.attachment = lease.attachment  # last: a lease with a pool and without private bytes drops a pin when it ends
    copy.epoch = lease.epoch
    copy.length = lease.length
    copy.is_writable = True
    return copy


@cython.final
@cython.no_gc_clear  # the end of a window needs its attachment; a cycle through a window has something else to clear
@cython.auto_pickle(False)
cdef class Window:
    """A range of an object as one contiguous buffer of ``len(window)`` bytes, from `Mapping.window`.

    It is read-only, unless it was opened with ``writable="copy"``: then only this process sees what it writes, and that is lost
    when the window is closed.

    A context manager; `close` unmaps it and unpins its folios when its last view has ended. It cannot be copied or pickled
    (TypeError). Using it after `close`, or in a process that inherited it by fork, raises LeaseError.
    """
    cdef FolioMap mapping
    cdef Attachment attachment
    cdef char *base
    cdef size_t reserved
    cdef size_t begin
    cdef Py_ssize_t length
    cdef u32 run
    cdef u64 run_place
    cdef size_t run_size
    cdef u64 first
    cdef Pin *pins
    cdef u32 npins
    cdef u32 most_pins
    cdef u32 table
    cdef u32 entry
    cdef u32 count
    cdef u32 epoch
    cdef int views
    cdef bint closed
    cdef bint is_writable
    cdef bint is_scattered
    cdef bint is_lent
    cdef Overlay lender
    cdef object __weakref__

    def __cinit__(self):
        self.closed = True
        self.table = layout.NIL

    def __init__(self):
        raise TypeError("windows come from Mapping.window()")

    def __reduce__(self):
        raise TypeError(
            "a window is pages mapped into this process, and cannot be copied or pickled; copy its bytes, bytes(window), or "
            "pickle the mapping and open a window there"
        )

    def __len__(self):
        return self.length

    def __getbuffer__(self, Py_buffer *buffer, int wanted):
        self._check()
        PyBuffer_FillInfo(buffer, self, <void *>(self.base + self.begin), self.length, not self.is_writable, wanted)
        with cython.critical_section(self.attachment):
            self._check()
            self.views += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        with cython.critical_section(self.attachment):
            self.views -= 1
            if self.closed and self.views == 0:
                self._drop()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def __dealloc__(self):
        if not self.closed:
            with cython.critical_section(self.attachment):
                self._drop()

    def __repr__(self):
        return f"<Window of {self.length} bytes{', closed' if self.closed else ''}>"

    def close(self):
        """Unmap the window and unpin its folios, now or when its last view ends. Closing twice is harmless."""
        with cython.critical_section(self.attachment):
            if not self.closed:
                self.closed = True
                if self.views == 0:
                    self._drop()

    def lease(self, offset, length=None):
        """Pin some of the window's bytes, also for the time after the window is closed.

        Parameters
        ----------
        offset : int
            The first byte, counted from the window's first.
        length : int, optional
            The most bytes to lease, at least 1. By default all up to the end of the folio that has the byte at ``offset``, or
            of the window.

        Returns
        -------
        Lease

        Raises
        ------
        IndexError
            The window has no byte at ``offset``.
        LeaseError
            The window has been closed, or was inherited by fork.
        """
        offset = integer(offset, "offset")
        if not 0 <= offset < self.length:
            raise IndexError(f"byte {quoted(offset)} of a window of {self.length}")
        length = self.length - offset if length is None else min(integer(length, "length"), self.length - offset)
        if length < 1:
            raise ValueError("a lease has at least 1 byte")
        with cython.critical_section(self.attachment):
            self._check()
            return self._lease(offset, length)

    cdef Lease _lease(self, u64 offset, u64 length):
        cdef u64 unit = (self.begin + offset) // self.mapping.unit_size
        cdef u64 begin = self.begin + offset - unit * self.mapping.unit_size
        cdef u32 n = <u32>unit
        cdef u32 pfn, entry
        cdef u32 back = 0
        cdef Lease lease = new_lease()
        if self.table == layout.NIL:
            self._use_table()
        entry = self._take()
        pfn = pagetable.lookup(self.attachment.mem, self.attachment.me, entry, self.table, n)
        while pfn == layout.NIL and back < n and back >> layout.SPAN_MAX == 0:
            back += 1
            pfn = pagetable.lookup(self.attachment.mem, self.attachment.me, entry, self.table, n - back)
        if pfn == layout.NIL:
            self.attachment.give(entry)
            raise LeaseError("this window is being closed by another thread")
        if not self.mapping._bind_units(lease, entry, pfn, self.first + n):
            raise FoliocacheError("the pool's tables are damaged; run 'foliocache fsck --repair'")
        lease.data += begin
        lease.length = min(<u64>lease.length - begin, length)
        return lease

    cdef u32 _take(self) except? 0xFFFFFFFE:
        cdef u32 entry = self.attachment.take()
        if entry == layout.NIL:
            raise _holds_all()
        return entry

    def _check(self):
        if self.closed:
            raise LeaseError("this window has been closed; open another one")
        if self.epoch != self.attachment.epoch:
            raise LeaseError("this window was inherited by fork and belongs to the parent process; open another one here")

    def _is_ours(self):
        """Return False if the window was inherited by fork."""
        return self.epoch == self.attachment.epoch

    def _let_go(self):
        """Refer to the mapping no longer, so that it can keep the window. It has no leases then."""
        self.mapping = None

    cdef _open(self, FolioMap mapping, u64 offset, u64 length):
        cdef mem_t mem = mapping.mem
        cdef u64 first = offset // mapping.unit_size
        cdef u64 count = (offset + length - 1) // mapping.unit_size - first + 1 if length else 0
        cdef u64 start
        cdef u32 n = 0
        cdef Lease lease
        self.mapping = mapping
        self.attachment = mapping.attachment
        self.attachment.join()
        self.epoch = self.attachment.epoch
        self.first = first
        self.length = length
        self.begin = offset - first * mapping.unit_size
        if count and (count - 1) << mapping.order >= backing.limit(mem):  # the last unit has at least one page
            raise FoliocacheError(f"a window of {length} bytes is larger than the pool; open smaller ones, or use read()")
        self.count = count
        self.closed = False
        if self.count:
            while n < self.count:
                start = (first + n) * mapping.unit_size
                lease = mapping._lease(start, min((first + self.count) * mapping.unit_size, mapping.size) - start, mapping.most)
                self._add(n, lease)
                n += mapping._units(lease.length)
            if not self.is_scattered:
                self._finish()

    cdef _add(self, u32 n, Lease lease):
        """Add the pages of a lease, which begins with unit n of the window, and keep its pin."""
        if lease.private is not None and self.attachment.left == 0:
            raise _holds_all()
        if lease.private is not None:
            raise FoliocacheError(
                f"the pool has no room for a window of {self.length} bytes: too much of it is pinned. "
                "Open smaller windows, or use read(), which copies"
            )
        with cython.critical_section(self.attachment):
            self._keep(n, lease)

    cdef _keep(self, u32 n, Lease lease):
        cdef u64 place = _place(lease)
        if self.run_size and place != self.run_place + self.run_size:
            if self.lender is None:
                self._map_run()
            else:
                self.is_scattered = True
        if self.run_size == 0:
            self.run = n
            self.run_place = place
        self.run_size += _whole(lease.length, self.attachment)
        if self.table != layout.NIL:
            self._move(n, lease.entry, lease.pfn)
            lease.released = True
            return
        if self.npins == self.most_pins:
            self._have_room()
        self.pins[self.npins] = Pin(n, lease.entry, lease.pfn)
        self.npins += 1
        lease.released = True  # the window has its pin
        if self.npins > (PINS_MAX if self.attachment.left > SPARE else PINS_FEW):
            self._use_table()

    cdef _have_room(self):
        """Have room for twice as many pins."""
        cdef u32 most = self.most_pins * 2 if self.most_pins else min(self.count, PINS_FEW)
        cdef void *found = realloc(self.pins, most * sizeof(Pin))
        if found == NULL:
            raise MemoryError()
        self.pins = <Pin *>found
        self.most_pins = most

    cdef _use_table(self):
        """Make the page table, and move the pins there."""
        cdef Pin pin
        self.entry = self._take()
        self.table = pagetable.make(self.attachment.mem, self.attachment.me, self.entry, self.count)
        if self.table == layout.NIL:
            self.attachment.give(self.entry)
            raise FoliocacheError(f"no room in the pool for the page table of a window of {self.length} bytes")
        while self.npins:
            self.npins -= 1
            pin = self.pins[self.npins]
            self._move(pin.unit, pin.entry, pin.pfn)

    cdef void _move(self, u32 n, u32 entry, u32 pfn) noexcept:
        pagetable.move(self.attachment.mem, self.attachment.me, entry, self.table, n, pfn)
        self.attachment.give(entry)

    cdef _map_run(self):
        """Map the folios that lie one after the other, up to the last one that was added."""
        cdef void *found
        cdef size_t size
        if self.base == NULL:
            size = self.count * self.mapping.unit_size
            found = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
            if found == MAP_FAILED:
                raise FoliocacheError(f"no address space for a window of {self.length} bytes: {os.strerror(errno)}")
            self.base = <char *>found
            self.reserved = size
        _map(self.base + self.run * self.mapping.unit_size, self.run_size, self.attachment, self.run_place, self.is_writable)
        self.run_size = 0

    cdef _finish(self):
        """Map the last run; nothing if it is the only one and read-only, because the segment's own mapping has it already, or
        the overlay is to lend it."""
        if self.lender is not None:
            self.base = self.lender.lend(self.run_place, self.run_size)
            self.is_lent = self.base != NULL
        elif self.run == 0 and not self.is_writable:
            self.base = <char *>(<const fc_mem *>self.attachment.mem).ro + self.run_place
        else:
            self._map_run()

    def _copy_all(self):
        _copy_pages(self.base, min(self.begin + self.length, self.reserved))

    cdef void _drop(self) noexcept:
        if self.reserved:
            munmap(self.base, self.reserved)
            self.reserved = 0
        if self.is_lent:
            self.is_lent = False
            self.lender.end(self.run_place)
        if self.table != layout.NIL and self.epoch == self.attachment.epoch:
            if pagetable.release(self.attachment.mem, self.attachment.me, self.entry, self.table):
                self.attachment.give(self.entry)
            else:
                self.attachment.wait(self.entry)
                self.attachment.tidy()
            self.table = layout.NIL
        if self.npins and self.epoch == self.attachment.epoch:
            self._unpin()
        free(self.pins)
        self.pins = NULL
        self.npins = 0
        self.most_pins = 0

    cdef void _unpin(self) noexcept:
        cdef Pin pin
        cdef bint is_refused = False
        while self.npins:
            self.npins -= 1
            pin = self.pins[self.npins]
            if folio.release(self.attachment.mem, self.attachment.me, pin.entry, pin.pfn):
                self.attachment.give(pin.entry)
            else:
                self.attachment.wait(pin.entry)
                is_refused = True
        if is_refused:
            self.attachment.tidy()


def open_window(FolioMap mapping not None, offset, length, writable=None):
    """Return a :class:`Window`, as :meth:`Mapping.window` does."""
    mapping._check()
    cdef u64 start = mapping._clip(offset, "offset")
    cdef u64 size = mapping.size - start if length is None else min(mapping._clip(length, "length"), mapping.size - start)
    cdef Window window = Window.__new__(Window)
    window.is_writable = is_writable(writable)
    window._open(mapping, start, size)
    if window.is_writable:
        watch(window)
    return window


def lent_window(FolioMap mapping not None):
    """Return a window of all of a mapping, which may be written to, as one with ``writable="copy"``: pages that the process's
    overlay lends. None if it does not, because the folios do not lie side by side, or there is no room, or no overlay."""
    mapping._check()
    cdef Overlay overlay = overlay_of(mapping.attachment)
    if overlay is None or not overlay.has_room(mapping.size):
        return None
    cdef Window window = Window.__new__(Window)
    window.is_writable = True
    window.lender = overlay
    window._open(mapping, 0, mapping.size)
    return window if window.is_lent else None


# No Window can be made from Python; Window.__new__ in this module does not call tp_new.

cdef object _no_window(PyTypeObject *kind, PyObject *arguments, PyObject *keywords):
    raise TypeError("windows come from Mapping.window()")


cdef object _no_pages(PyTypeObject *kind, PyObject *arguments, PyObject *keywords):
    raise TypeError("private pages come from Mapping.lease()")


cdef extern from *:
    """
    #define FC_REFUSE_NEW(type, function) \
        (((PyTypeObject *)(type))->tp_new = (newfunc)(function), ((PyTypeObject *)(type))->tp_vectorcall = NULL)
    """
    void FC_REFUSE_NEW(object type, void *function)


FC_REFUSE_NEW(Window, <void *>_no_window)
FC_REFUSE_NEW(PrivatePages, <void *>_no_pages)
