cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64

from .calls cimport Calls
from .steps cimport Steps


cdef class Filler


@cython.final
cdef class Request:
    cdef Filler filler
    cdef Steps mapping
    cdef object lease, mark, error, told, told_by, context, result, group
    cdef u64 first, end
    cdef u32 epoch
    cdef bint is_ahead, is_readahead

    cdef int dequeue(self) except -1
    cdef int leave_group(self) except -1
    cdef int wait(self, u64 timeout_ns) except -1
    cdef int tell(self, error) except -1


@cython.final
cdef class Group:
    cdef Filler filler
    cdef Steps mapping
    cdef object gate
    cdef u64 left
    cdef u32 epoch
    cdef bint is_late

    cdef int join(self) except -1
    cdef int leave(self) except -1


cdef class Filler(Calls):
    cdef object call_read_ranges, turns, wanted, server
    cdef readonly object readahead
    cdef u32 queued_epoch, wanted_epoch, servers
    cdef u64 queued, queued_first, queued_end
    cdef public u64 request_size
    cdef readonly u64 mark

    cdef object miss(self, Steps mapping, u64 index, u64 wanted, result=*)
    cdef object join(self, Steps mapping, lease, u64 index, u64 wanted)
    cdef bint has_reached(self, u64 first, u64 behind, u64 last) noexcept
    cdef int read_ahead_from(self, Steps mapping, u64 first, u64 behind) except -1
    cdef u64 keep_ahead(self, Steps mapping, u64 index, u64 asked, u64 end, u64 most, result=*) except? 0
    cdef object _join(self, Steps mapping, lease, u64 index, u64 wanted)
    cdef int _raise_failure(self, Steps mapping, lease, u64 index) except -1
    cdef object _fill_missing(self, Steps mapping, lease, u64 index, u64 count, mark, result)
    cdef object _plan(self, Steps mapping, u64 index, u64 wanted)
    cdef bint _is_dense(self, Steps mapping, u64 index) except -1
    cdef int _ask_ahead(
        self, Steps mapping, u64 first, u64 end, mark, bint is_readahead, u64 of, result=*
    ) except -1
    cdef int _queue(
        self, Steps mapping, u64 first, u64 end, mark, bint is_readahead, u64 size, result, Group group
    ) except -1
    cdef int _start_servers(self) except -1
    cdef Request _next_wanted(self, ours)
    cdef int _drop_wanted(self) except -1
    cdef bint _counts_server(self, ours) except -1
    cdef u64 _request_units(self, Steps mapping, u64 units) except? 0
    cdef u64 _request_size(self, u64 length) except? 0
    cdef u64 _first_stop(self, Steps mapping, u64 index, u64 count) except? 0
    cdef Request _request(self, Steps mapping, u64 first, u64 end, mark, bint is_readahead)
    cdef int _serve(self, Steps mapping, lease, u64 index, u64 end, mark, Request request) except -1
    cdef u64 _fill(self, Steps mapping, lease, u64 index, u64 count, mark, Request request) except? 0
    cdef int _fill_locked(self, Steps mapping, list run, u64 first, u64 count, mark, Request request) except -1
    cdef int _extend(self, Steps mapping, list run, u64 index, u64 end) except -1
    cdef u64 _filled(self, Steps mapping, lease, u64 index, mark, Request request) except? 0
    cdef int _fill_run(self, Steps mapping, list run, u64 index, mark, Request request) except -1
    cdef int _stream_run(self, Steps mapping, list run, u64 index, mark, Request request) except -1
    cdef int _release_view(self, memoryview view, target) except -1
    cdef object _kept(self)
    cdef int _read_run(self, Steps mapping, list run, u64 index) except -1
    cdef int _read_into_page(self, Steps mapping, lease, u64 index) except -1
