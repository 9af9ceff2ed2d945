"""A Python object that was found by its name: its mapping, as small as it can be.

A worker that reads a dataset keeps thousands of them. So the garbage collector does not know them (a full collection would
copy the heap of a forked process), and nothing in one refers to the pool's Python objects: no cycle runs through it.
"""
cimport cython
from cpython.object cimport PyObject
from libc.stdint cimport uint32_t as u32, uint64_t as u64

from .attachment cimport Attachment
from .folio_map cimport FolioMap
from .lease cimport Lease
from ..filler.miss cimport Filler
from ..mm cimport filemap

from ..errors import FoliocacheError
from .window import lent_window, open_window

cdef extern from "Python.h":
    void PyObject_GC_UnTrack(PyObject *object)


@cython.final
@cython.auto_pickle(False)
cdef class FoundMap(FolioMap):
    """The mapping of an object that is complete, or gone: it is read as a whole, and never filled.

    A miss looks for the object's record again, and raises what ``gone`` makes if there is none. A folio that is missing is
    asked from ``filler``, whose source raises it, too.
    """
    cdef object gone

    def __init__(self, Attachment attachment, Filler filler, u64 size, u32 order, u32 height, u32 span, bytes digest, gone):
        FolioMap.__init__(self, attachment, filler, size, order, height, digest, NO_KEY, b"", b"", span, False, 1)
        self.identity = None
        self.gone = gone
        PyObject_GC_UnTrack(<PyObject *>self)

    def __reduce__(self):
        raise TypeError("the mapping of an object that was found is this process's, and cannot be copied or pickled")

    cdef bint _open(self) noexcept:
        """Find the object's record; never make one."""
        with cython.critical_section(self.attachment):
            self._bind(filemap.resolve(self.mem, self.attachment.me, self.digest_lo, self.digest_hi))
        return self.ino != 0

    cdef Lease _miss(self, u64 start, u64 most, u64 limit):
        if not self._open():
            raise self.gone("a part of the object was evicted")
        return FolioMap._miss(self, start, most, limit)

    cdef int request(self, u32 source, u64 ns, u64 length, bint failed) except -1:
        return 0  # nothing was asked from an origin

    @property
    def key(self):
        """For spans of waits, which take longer than a look: the key is not kept."""
        return ""

    @property
    def version(self):
        return ""

    def lease_all(self):
        """Return a lease on the whole object; None if it is in several folios, or empty.

        Raises what ``gone`` makes if it was evicted, FoliocacheError if this process has as many leases as it can.
        """
        cdef Lease lease
        if self.size == 0:
            return None
        lease = self._lease(0, self.size, self.most)
        if lease.private is not None:
            raise FoliocacheError("the object cannot be pinned: this process has no lease left")
        return lease if <u64>lease.length == self.size else None

    def window(self, offset=0, length=None, *, writable=None):
        """Return a window of the object, as `Mapping.window` does."""
        return open_window(self, offset, length, writable)

    def lent_window(self):
        """Return a window of all of the object that may be written to, or None, as ``window.lent_window`` does."""
        return lent_window(self)


cdef bytes NO_KEY = bytes(8)
