cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64

from .steps cimport Steps


cdef class Filler


@cython.final
cdef class _Reading:
    cdef object identity
    cdef u64 first, end, since
    cdef u32 epoch
    cdef bint private

    cdef bint has(self, Steps mapping, u64 index) except -1


cdef list _reads()
cdef _Reading _reading(Steps mapping, u64 index, u64 count, bint private)


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


cdef class Filler:
    cdef object key, pool, given, call_read, call_readinto, call_read_into, call_read_ranges, origin, lock, turns
    cdef object wanted, server
    cdef readonly object readahead
    cdef object guard
    cdef bint concurrent, is_exact
    cdef readonly bint is_threaded
    cdef u32 kind, lock_epoch, queued_epoch, wanted_epoch, servers
    cdef u64 calls, queued, queued_first, queued_end
    cdef public u64 request_size
    cdef readonly u64 mark

    cdef object miss(self, Steps mapping, u64 index, u64 wanted, result=*)
    cdef object join(self, Steps mapping, lease, u64 index, u64 wanted)
    cdef object read_privately(self, Steps mapping, u64 index)
    cdef bint has_reached(self, u64 first, u64 behind, u64 last) noexcept
    cdef int read_ahead_from(self, Steps mapping, u64 first, u64 behind) except -1
    cdef u64 keep_ahead(self, Steps mapping, u64 index, u64 asked, u64 end, u64 most, result=*) except? 0
    cdef object _join(self, Steps mapping, lease, u64 index, u64 wanted)
    cdef int _raise_failure(self, Steps mapping, lease, u64 index) except -1
    cdef u64 _patience(self) except? 0
    cdef object _fill_missing(self, Steps mapping, lease, u64 index, u64 count, mark, result)
    cdef object _plan(self, Steps mapping, u64 index, u64 wanted)
    cdef bint _is_dense(self, Steps mapping, u64 index) except -1
    cdef int _ask_ahead(
        self, Steps mapping, u64 first, u64 end, mark, bint is_readahead, u64 of, result=*, Group group=*
    ) except -1
    cdef int _start_server(self) except -1
    cdef Request _next_wanted(self)
    cdef int _drop_wanted(self) except -1
    cdef bint _counts_server(self) except -1
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
    cdef object _read_late(self, Steps mapping, u64 index)
    cdef bytes _content(self, Steps mapping, u64 index)
    cdef bytes _private_content(self, Steps mapping, u64 offset, Py_ssize_t length)
    cdef object _read(self, u64 offset, u64 length)
    cdef int _readinto(self, Steps mapping, u64 offset, target) except -1
    cdef int _check_count(self, Steps mapping, got, u64 offset, Py_ssize_t length) except -1
    cdef int _check_length(self, Steps mapping, Py_ssize_t got, u64 offset, Py_ssize_t length) except -1
    cdef object _begin(self, u64 offset, list views)
    cdef object _stopped(self)
    cdef object _short(self, Steps mapping, got, u64 offset, Py_ssize_t length)
    cdef object _take_turn(self, Steps mapping)
