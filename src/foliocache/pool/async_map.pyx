"""The compiled part of reads in event loops: cached bytes are returned at once, anything else is a `Miss` to be awaited.

Nothing here waits, takes a lock or calls a source: the `Miss` does that, in other threads.

``read_async`` returns a coroutine of a type of its own, `Reading`: a Python frame would take as long as the hit itself.
"""
cimport cython
from cpython.buffer cimport PyBuffer_Release
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.memoryview cimport PyMemoryView_FromObject
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport uint32_t as u32, uint64_t as u64
from libc.string cimport memcpy

from .attachment cimport begin_step, end_step, section_t
from .folio_map cimport FolioMap
from .lease cimport Lease, new_lease
from .result cimport RESULT_MIN
from ..filler.awaited cimport new_miss, read_ahead
from ..filler.buffers cimport get_writable
from ..mm cimport atomics, fill, layout
from ..mm.atomics cimport fc_mem
from ..mm.inline cimport client, filemap, flags, page_type

cdef extern from *:
    """
    /* Set by this module. Returns a Reading's result if it is cached; else None, and sets *rest to the coroutine that goes on;
     * or NULL with an exception. */
    static PyObject *(*fc_begin)(PyObject *reading, PyObject **rest);

    static PySendResult fc_send(PyObject *reading, PyObject *value, PyObject **result)
    {
        PyObject *rest = NULL;
        PySendResult sent;
        *result = fc_begin(reading, &rest);
        if (*result == NULL)
            return PYGEN_ERROR;
        if (rest == NULL)
            return PYGEN_RETURN;
        Py_DECREF(*result);
        sent = PyIter_Send(rest, value, result);
        Py_DECREF(rest);
        return sent;
    }

    static PyObject *fc_next(PyObject *reading)
    {
        PyObject *result = NULL;
        if (fc_send(reading, Py_None, &result) == PYGEN_RETURN) {
            PyErr_SetObject(PyExc_StopIteration, result);  /* neither a tuple nor an exception, which would be taken apart */
            Py_CLEAR(result);
        }
        return result;
    }

    #define FC_SET_COROUTINE(type, begin) \
        (fc_begin = (begin), ((PyTypeObject *)(type))->tp_as_async->am_send = fc_send, \
         ((PyTypeObject *)(type))->tp_iternext = fc_next)
    """
    void FC_SET_COROUTINE(object type, PyObject *(*begin)(PyObject *, PyObject **) except NULL)

cdef u64 COPY_MAX = 1 << 20  # bytes that are copied before other tasks run


cdef class AsyncMap(FolioMap):
    """The part of a mapping's reads that never waits."""

    cdef object _look(self, u64 start, u64 most, u64 limit, bint hits_only):
        """Return what ``_lease`` returns, if it is cached. Otherwise return None if hits_only, else a `Miss`, whose lease goes
        to ``_taken``."""
        cdef u64 index = start >> self.shift
        cdef u32 entry, pfn, seen
        cdef u64 at
        cdef section_t section
        cdef bint turn
        cdef Lease lease
        if not self.attachment.joined:
            self._check()
            return self._later(start, most, limit, None, hits_only)  # becoming a client takes locks
        lease = new_lease()
        turn = begin_step(<PyObject *>self.attachment, &section)
        entry = self.attachment.take()
        if entry == layout.NIL:
            end_step(<PyObject *>self.attachment, &section, turn)
            lease = self._copy_cached(index)
            return self._later(start, most, limit, None, hits_only) if lease is None else self._cut(lease, start, most)
        pfn = filemap.lookup(self.mem, self.attachment.me, entry, self.ino, self.head, self.mark, self.height, index)
        if pfn == layout.NIL:
            self.attachment.give(entry)
            end_step(<PyObject *>self.attachment, &section, turn)
            return self._later(start, most, limit, None, hits_only)
        if not self._bind_units(lease, entry, pfn, index):
            end_step(<PyObject *>self.attachment, &section, turn)
            return self._later(start, most, limit, None, hits_only)
        at = atomics.folio_at(self.mem, pfn)
        seen = flags.load(self.mem, at)
        if not seen & layout.PG_UPTODATE or not self._is_ours(at):
            end_step(<PyObject *>self.attachment, &section, turn)
            return self._later(start, most, limit, None if seen & layout.PG_UPTODATE else lease, hits_only)
        flags.mark_referenced(self.mem, at, seen)
        client.count(self.mem, self.attachment.me, layout.COUNT_HITS, 1)
        end_step(<PyObject *>self.attachment, &section, turn)
        self._cut(lease, start, most)
        self.previous = (start + <u64>lease.length - 1) >> self.shift
        if seen & layout.PG_READAHEAD:
            self._heed(pfn, at)
        return lease

    cdef Lease _use_awaited(self, Lease lease, u64 start, u64 most):
        """Do what ``_use`` does, with a lease that a `Miss` ended with."""
        cdef u64 at
        self._cut(lease, start, most)
        self.previous = (start + <u64>lease.length - 1) >> self.shift
        if lease.private is None:
            at = atomics.folio_at(self.mem, lease.pfn)
            if flags.load(self.mem, at) & layout.PG_READAHEAD:
                self._heed(lease.pfn, at)
        return lease

    cdef int _heed(self, u32 pfn, u64 at) except -1:
        """Unit ``previous`` of a folio with the readahead mark was used: do what ``_read_ahead`` does, in another thread."""
        cdef u64 first = filemap.first_of(self.mem, pfn)
        cdef u64 behind = first + (<u64>1 << page_type.span(self.mem, pfn))
        if self.filler.has_reached(first, behind, self.previous) and flags.clear(self.mem, at, layout.PG_READAHEAD):
            read_ahead(self.filler, self, first, behind)
        return 0

    cdef object _later(self, u64 start, u64 most, u64 limit, Lease lease, bint hits_only):
        """Return None if hits_only, else a `Miss` for the bytes from start on. lease: on their folio if it is being filled."""
        cdef u64 index = start >> self.shift
        if hits_only:
            return None
        return new_miss(self.filler, self, index, min(self._units(start + most) - index, limit), lease)

    def read_async(self, offset, length):
        """`read` for event loops: a view of the folio itself, without a copy, if one folio has all of the range.

        Parameters
        ----------
        offset, length : int
            The first byte, and how many; cut off at the end of the object.

        Returns
        -------
        coroutine
            It returns a read-only memoryview.

        Raises
        ------
        SourceError
            The source did not return the bytes, or the mapping has no source.
        FoliocacheError
            The pool has been closed, also while this waits.
        Exception
            Whatever the source raises.
        """
        cdef Reading reading = Reading.__new__(Reading)
        reading.mapping, reading.offset, reading.length = self, offset, length
        return reading

    cdef object _cached_view(self, offset, length):
        """Return a range as a memoryview if it is cached in one folio, else None."""
        cdef u64 start = self._clip(offset, "offset")
        cdef u64 most = min(self._clip(length, "length"), self.size - start)
        cdef Lease lease
        if most == 0:
            self._check()
            return memoryview(b"")
        lease = self._look(start, most, self.most, True)
        return None if lease is None or <u64>lease.length != most else PyMemoryView_FromObject(lease)

    def _cached_bytes(self, offset, length):
        """Return a range as bytes if it is cached in one folio and has at most COPY_MAX bytes, else None."""
        cdef u64 start = self._clip(offset, "offset")
        cdef u64 most = min(self._clip(length, "length"), self.size - start)
        cdef Lease lease
        if most == 0:
            self._check()
            return b""
        if most > COPY_MAX:
            return None
        lease = self._look(start, most, self.most, True)
        if lease is None or <u64>lease.length != most:
            return None
        copy = PyBytes_FromStringAndSize(lease.data, most)
        lease.release()
        return copy

    def _is_long(self, offset, length):
        """Return True if so much of a range may be missing that a thread should wait for it, and for the threads that fill it.

        A loop would be woken for each folio, and would copy it after they have filled it.
        """
        cdef u64 start = self._clip(offset, "offset")
        cdef u64 most = min(self._clip(length, "length"), self.size - start)
        return most >= <u64>RESULT_MIN and self.filler.is_threaded and not self.is_cached(start, most)

    def _read_long(self, offset, length, ended):
        """In a thread: return a range of which ``_is_long`` is True. ended: an event that is set when no one waits for it."""
        cdef u64 start = self._clip(offset, "offset")
        return self._long_bytes(start, min(start + self._clip(length, "length"), self.size), ended)

    def _gather_bytes(self, offset, length):
        """Return a `Gather` that makes bytes of a range."""
        cdef u64 start = self._clip(offset, "offset")
        cdef u64 most = min(self._clip(length, "length"), self.size - start)
        cdef Gather gather = Gather.__new__(Gather)
        gather.copy = PyBytes_FromStringAndSize(NULL, most)
        gather.begin(self, start, start + most, PyBytes_AS_STRING(gather.copy))
        return gather

    def _gather_into(self, offset, buffer):
        """Return a `Gather` that fills a buffer. Raises TypeError for a buffer that cannot be filled."""
        cdef u64 start = self._clip(offset, "offset")
        cdef Gather gather = Gather.__new__(Gather)
        get_writable(buffer, &gather.buffer)
        gather.has_buffer = True
        self._check()
        gather.begin(self, start, start + min(<u64>gather.buffer.len, self.size - start), <char *>gather.buffer.buf)
        return gather

    def _look_lease(self, offset, length):
        """Return what ``lease(offset, length)`` returns, if it is cached, else a `Miss`, whose lease goes to `_taken`."""
        cdef u64 start = self._offset(offset)
        cdef u64 most
        if length is None:
            return self._look(start, self.size - start, 1, False)
        most = self._clip(length, "length")
        if most == 0:
            raise ValueError("a lease has at least 1 byte; read(offset, 0) gives an empty view")
        return self._look(start, min(most, self.size - start), self.most, False)

    def _taken(self, Lease lease not None, offset, length):
        """Return what ``lease(offset, length)`` returns, made from the lease that its `Miss` ended with."""
        return self._use_awaited(lease, self._offset(offset), self.size if length is None else self._clip(length, "length"))

    def _view_of(self, Lease lease not None, offset, length):
        """Return a view of what ``lease(offset, length)`` gave if that is the whole range; else release it and return None."""
        cdef u64 start = self._offset(offset)
        if <u64>lease.length < min(self._clip(length, "length"), self.size - start):
            lease.release()
            return None
        return PyMemoryView_FromObject(lease)

    cdef u32 *sleeper(self, lease, u32 *seen) noexcept:
        cdef Lease waiting = lease
        seen[0] = fill.begin_wait(self.mem, waiting.pfn)
        if not seen[0] & layout.PG_LOCKED:
            return NULL
        return <u32 *>((<const fc_mem *>self.mem).base + atomics.folio_at(self.mem, waiting.pfn) + layout.F_FLAGS)


@cython.final
@cython.no_gc_clear  # it would forget the buffer without an end to its export
@cython.auto_pickle(False)
cdef class Gather:
    """The copying of a range of an object to one buffer, folio by folio."""
    cdef AsyncMap mapping
    cdef object copy
    cdef Py_buffer buffer
    cdef bint has_buffer
    cdef char *target
    cdef u64 start, at, end

    def __init__(self):
        raise TypeError("a range is gathered by a mapping")

    def __dealloc__(self):
        self._release()

    cdef int begin(self, AsyncMap mapping, u64 start, u64 end, char *target) except -1:
        self.mapping, self.start, self.at, self.end, self.target = mapping, start, start, end, target
        return 0

    cdef int _release(self) noexcept:
        if self.has_buffer:
            self.has_buffer = False
            PyBuffer_Release(&self.buffer)
        return 0

    @property
    def result(self):
        """The bytes; or the number of bytes written, if it fills a buffer."""
        return self.end - self.start if self.copy is None else self.copy

    def step(self):
        """Copy cached folios up to one that is missing. Return a `Miss` for that one; None if other tasks should run first; or
        True at the end of the range."""
        cdef u64 turn = self.at + COPY_MAX
        while self.at < self.end:
            if self.at >= turn:
                return None
            found = self.mapping._look(self.at, self.end - self.at, self.mapping.most, False)
            if type(found) is not Lease:
                return found
            self._copy(found)
        return True

    def take(self, Lease lease not None):
        """Copy from the lease that the `Miss` of the last ``step`` ended with."""
        self._copy(self.mapping._use_awaited(lease, self.at, self.end - self.at))

    cdef int _copy(self, Lease lease) except -1:
        memcpy(self.target + (self.at - self.start), lease.data, lease.length)
        self.at += lease.length
        lease.release()
        return 0

    def close(self):
        """Release the buffer."""
        self._release()


@cython.final
@cython.freelist(64)
@cython.auto_pickle(False)
cdef class Reading:
    """A coroutine that returns a view of a range: in its first step if it is cached, else as ``_read_missing`` does."""
    cdef AsyncMap mapping
    cdef object offset, length, rest
    cdef bint is_over

    def __init__(self):
        raise TypeError("readings come from Mapping.read_async()")

    def __await__(self):
        return self

    def __iter__(self):
        return self

    def __next__(self):
        raise NotImplementedError  # replaced by fc_next

    def send(self, value):
        """Run to the next suspension, as a loop does."""
        cdef PyObject *rest = NULL
        cdef PyObject *begun = _begin(<PyObject *>self, &rest)
        found = <object>begun
        Py_DECREF(found)
        if rest == NULL:
            raise StopIteration(found)
        further = <object>rest
        Py_DECREF(further)
        return further.send(value)

    def throw(self, *error):
        """Raise an error where the coroutine waits."""
        with cython.critical_section(self):
            if self.rest is None:
                self.is_over = True
                self.rest = _nothing()
            rest = self.rest
        return rest.throw(*error)

    def close(self):
        """End the coroutine."""
        with cython.critical_section(self):
            self.is_over = True
            rest = self.rest
        if rest is not None:
            rest.close()


async def _nothing():
    """A coroutine that has not begun."""


cdef PyObject *_begin(PyObject *which, PyObject **rest) except NULL:
    """See fc_begin. Both returned references belong to the caller."""
    cdef Reading reading = <Reading>which
    found = further = None
    with cython.critical_section(reading):
        if reading.rest is None:
            if reading.is_over:
                raise RuntimeError("this coroutine has been awaited already; read again")
            reading.is_over = True
            found = reading.mapping._cached_view(reading.offset, reading.length)
            if found is None:
                reading.rest = reading.mapping._read_missing(reading.offset, reading.length)
        further = reading.rest
    if found is None:
        Py_INCREF(further)
        rest[0] = <PyObject *>further
    Py_INCREF(found)
    return <PyObject *>found


FC_SET_COROUTINE(Reading, _begin)
