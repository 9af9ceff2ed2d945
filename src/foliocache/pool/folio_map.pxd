cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64

from .folio_steps cimport FolioSteps
from .lease cimport Lease
from .result cimport Result


cdef class FolioMap(FolioSteps):
    cdef Lease _lease(self, u64 start, u64 most, u64 limit)
    cdef Lease _miss(self, u64 start, u64 most, u64 limit)
    cdef Lease _join(self, Lease lease, u64 start, u64 most, u64 limit)
    cdef int _read_ahead(self, u32 pfn, u64 last) except -1
    cdef Lease _use(self, Lease lease, u64 start, u64 most)
    cdef Lease _cut(self, Lease lease, u64 start, u64 most)
    cdef int _gather(self, u64 start, u64 end, char *target, Result result=*) except -1
    cdef bytes _long_bytes(self, u64 start, u64 end, ended)
    cdef Lease _lease_for(self, u64 start, u64 most, Result result)
    cdef u64 _clip(self, n, what) except? 0xFFFFFFFFFFFFFFFF
    cdef u64 _offset(self, n) except? 0xFFFFFFFFFFFFFFFF
    cdef u64 _clip_any(self, n, what) except? 0xFFFFFFFFFFFFFFFF
    cdef u64 _offset_any(self, n) except? 0xFFFFFFFFFFFFFFFF
    cdef int _check(self) except -1
    cdef object _lease_cached(self, u64 start, u64 most)
    cdef Lease _copy(self, u64 index)
    cdef Lease _copy_cached(self, u64 index)


@cython.final
cdef class Pieces:
    cdef FolioMap mapping
    cdef u64 place, end
