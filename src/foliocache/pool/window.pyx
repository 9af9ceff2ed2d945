"""Windows: consecutive folios as one contiguous, read-only buffer, without a copy.

A window reserves address space and maps the folios' pages into it one after the other, read-only, from the segment's file.
Its page table (``mm.pagetable``) has an entry for each unit. The entry of a folio's first unit in the window owns a reference,
and the others are empty, so none of the folios is evicted while the window is open. The
kernel merges mappings of neighbouring pages, but in the worst case each folio is a mapping of its own: ``vm.max_map_count``
(65,530 by default) bounds how many a process can have.
"""
cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from cpython.object cimport PyObject, PyTypeObject
from libc.errno cimport errno
from libc.stdint cimport uint32_t as u32, uint64_t as u64
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED, PROT_NONE, PROT_READ
from posix.mman cimport mmap, munmap

import os

from ..errors import FoliocacheError, LeaseError
from ..sizes import integer

from .attachment cimport Attachment
from .lease cimport FolioMap, Lease, new_lease
from ..mm cimport atomics, layout, pagetable
from ..mm.atomics cimport fc_mem, mem_t
from ..mm.inline cimport filemap


@cython.final
@cython.auto_pickle(False)
cdef class Window:
    """A range of an object as one contiguous, read-only buffer of ``len(window)`` bytes, from `Mapping.window`.

    A context manager; `close` unmaps it and unpins its folios once the last view of it has gone. It cannot be copied or pickled
    (TypeError). Using it after its end, or in a process that inherited it by fork, raises LeaseError.
    """
    cdef Attachment attachment
    cdef char *base
    cdef size_t reserved
    cdef size_t begin
    cdef Py_ssize_t length
    cdef u64 first
    cdef u64 folio_size
    cdef Py_ssize_t last_length
    cdef u32 table
    cdef u32 entry
    cdef u32 count
    cdef u32 epoch
    cdef int views
    cdef bint closed

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
        PyBuffer_FillInfo(buffer, self, <void *>(self.base + self.begin), self.length, 1, wanted)
        self.views += 1

    def __releasebuffer__(self, Py_buffer *buffer):
        self.views -= 1
        if self.closed and self.views == 0:
            self._drop()

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()

    def __dealloc__(self):
        if not self.closed:
            self._drop()

    def __repr__(self):
        return f"<Window of {self.length} bytes over {self.count} units{', closed' if self.closed else ''}>"

    def close(self):
        """Unmap and unpin, now or when the last view goes. Doing it twice is harmless."""
        if not self.closed:
            self.closed = True
            if self.views == 0:
                self._drop()

    def lease(self, number):
        """Pin one of the window's units alone, beyond the window's own life.

        Parameters
        ----------
        number : int
            Which one, from 0.

        Returns
        -------
        Lease

        Raises
        ------
        IndexError
            There is no such unit.
        LeaseError
            The window has been closed, or was inherited by fork.
        """
        cdef u32 n, pfn, entry
        cdef u32 back = 0
        cdef u64 begin
        cdef Lease lease = new_lease()
        number = integer(number, "the number of a folio")
        if not 0 <= number < self.count:
            raise IndexError(f"folio {number} of a window over {self.count}")
        n = <u32>number
        self._check()
        entry = self._take()
        pfn = pagetable.lookup(self.attachment.mem, self.attachment.me, entry, self.table, n)
        while pfn == layout.NIL and back < n and back >> layout.SPAN_MAX == 0:
            back += 1
            pfn = pagetable.lookup(self.attachment.mem, self.attachment.me, entry, self.table, n - back)
        if pfn == layout.NIL:
            self.attachment.give(entry)
            raise LeaseError("this window is being closed by another thread")
        begin = (self.first + n - filemap.first_of(self.attachment.mem, pfn)) * self.folio_size
        lease._bind(self.attachment, entry, pfn, begin, self.last_length if n + 1 == self.count else self.folio_size)
        return lease

    cdef u32 _take(self) except? 0xFFFFFFFE:
        cdef u32 entry = self.attachment.take()
        if entry == layout.NIL:
            raise FoliocacheError(f"this process holds {layout.PINS - 1} leases and windows, as many as it can; release some")
        return entry

    def _check(self):
        if self.closed:
            raise LeaseError("this window has been closed; open another one")
        if self.epoch != self.attachment.epoch:
            raise LeaseError("this window was inherited by fork and belongs to the parent process; open another one here")

    cdef _open(self, FolioMap mapping, u64 offset, u64 length):
        cdef mem_t mem = mapping.mem
        cdef u64 first = offset // mapping.folio_size
        cdef u64 count = (offset + length - 1) // mapping.folio_size - first + 1 if length else 0
        cdef u32 n = 0
        cdef Lease lease
        self.attachment = mapping.attachment
        self.attachment.join()
        self.epoch = self.attachment.epoch
        self.first = first
        self.folio_size = mapping.folio_size
        self.length = length
        self.begin = offset - first * self.folio_size
        if count * (self.folio_size >> atomics.page_shift(mem)) > <u64>atomics.npages_max(mem) + self.folio_size:
            raise FoliocacheError(f"a window of {length} bytes is larger than the pool; open smaller ones, or use read()")
        self.count = count
        self.closed = False
        if self.count:
            self.last_length = mapping._length(first + self.count - 1)
            self._reserve()
            while n < self.count:
                lease = mapping._lease(first + n, self.count - n)
                self._add(n, lease)
                n += mapping._units(lease.length)

    cdef _reserve(self):
        cdef void *found
        self.entry = self._take()
        self.table = pagetable.make(self.attachment.mem, self.attachment.me, self.entry, self.count)
        if self.table == layout.NIL:
            self.attachment.give(self.entry)
            raise FoliocacheError(f"no room in the pool for the page table of a window over {self.count} units")
        found = mmap(NULL, self.count * self.folio_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        if found == MAP_FAILED:
            raise FoliocacheError(
                f"no address space for a window of {self.count * self.folio_size} bytes: {os.strerror(errno)}"
            )
        self.base = <char *>found
        self.reserved = self.count * self.folio_size

    cdef _add(self, u32 n, Lease lease):
        """Map the pages of a lease, which begins with unit n of the window, and move its pin to the page table."""
        cdef u64 place = lease.data - (<const fc_mem *>self.attachment.mem).ro
        cdef size_t page = 1 << atomics.page_shift(self.attachment.mem)
        cdef size_t size = (lease.length + page - 1) // page * page
        cdef void *at = self.base + n * self.folio_size
        if lease.private is not None:
            raise FoliocacheError(
                f"the pool has no room for a window over {self.count} units of {self.folio_size} bytes: too much of it is "
                "pinned. Open smaller windows, or use read(), which copies"
            )
        if mmap(at, size, PROT_READ, MAP_SHARED | MAP_FIXED, self.attachment.segment.fd_to_read, place) == MAP_FAILED:
            raise FoliocacheError(
                f"a window over {self.count} units cannot be mapped: {os.strerror(errno)} (see vm.max_map_count)"
            )
        pagetable.move(self.attachment.mem, self.attachment.me, lease.entry, self.table, n, lease.pfn)
        self.attachment.give(lease.entry)
        lease.released = True

    cdef void _drop(self) noexcept:
        if self.reserved:
            munmap(self.base, self.reserved)
            self.reserved = 0
        if self.table != layout.NIL and self.epoch == self.attachment.epoch:
            if pagetable.release(self.attachment.mem, self.attachment.me, self.entry, self.table):
                self.attachment.give(self.entry)
            else:
                self.attachment.wait(self.entry)
                self.attachment.tidy()
            self.table = layout.NIL


def open_window(FolioMap mapping not None, offset, length):
    """Return a :class:`Window`, as :meth:`Mapping.window` does."""
    mapping._check()
    cdef u64 start = mapping._clip(offset, "offset")
    cdef u64 size = mapping.size - start if length is None else min(mapping._clip(length, "length"), mapping.size - start)
    cdef Window window = Window.__new__(Window)
    window._open(mapping, start, size)
    return window


# No Window can be made from Python; Window.__new__ in this module does not call tp_new.

cdef object _no_window(PyTypeObject *kind, PyObject *arguments, PyObject *keywords):
    raise TypeError("windows come from Mapping.window()")


cdef extern from *:
    """
    #define FC_REFUSE_NEW(type, function) \
        (((PyTypeObject *)(type))->tp_new = (newfunc)(function), ((PyTypeObject *)(type))->tp_vectorcall = NULL)
    """
    void FC_REFUSE_NEW(object type, void *function)


FC_REFUSE_NEW(Window, <void *>_no_window)
