"""An object as one record of its name describes it: what a process keeps of each object that it has found.

Workers keep thousands of them, so they are small, and the garbage collector does not know them: a full collection would copy
the heap of a forked process. No cycle runs through one.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.object cimport PyObject

import contextlib
from weakref import ref as _ref

from ..errors import FoliocacheError
from . import values

cdef extern from "Python.h":
    void PyObject_GC_UnTrack(PyObject *object)

cdef Py_ssize_t RECORD_MAX = 0xffff
cdef Py_ssize_t COPY_MAX = 1 << 20  # bytes; a copy of so many takes less time than the page faults of a window


class Gone(FoliocacheError):
    """A part of an object was evicted."""


@cython.final
@cython.no_gc
@cython.auto_pickle(False)
cdef class Found:
    """One object. ``record`` is that of its name; bytes ``at`` to ``end`` of it, the head, describe the object (``values``).
    There is no object if they are none.

    Its bytes are in ``mapping``, or behind the head in the record: then they are ``content``, too.
    """
    cdef readonly bytes record
    cdef readonly object mapping
    cdef bytes content
    cdef object builder  # of ``values.decoder``; objects with the same head share one
    cdef object window  # a weak reference to the window that was opened last
    cdef object rows  # what ``values.rows`` returns, once it was asked for
    cdef unsigned short at, end
    cdef bint is_large, has_rows  # more than one folio

    def __init__(self, bytes record, Py_ssize_t at, Py_ssize_t end, bytes content, mapping):
        if not 0 <= at <= end <= (0 if record is None else len(record)) <= RECORD_MAX:
            raise ValueError(f"a record has no bytes {at} to {end}, or is too long")
        self.record, self.at, self.end, self.content, self.mapping = record, at, end, content, mapping

    def __reduce__(self):
        raise TypeError("what was found in a pool is this process's, and cannot be copied or pickled")

    @property
    def exists(self):
        return self.at != self.end

    cdef bytes _head(self):
        return self.record[self.at : self.end]

    def build(self, loads, key, writable):
        """Build the object. Raises Gone if a part of it was evicted, ValueError if ``writable`` is invalid."""
        if writable is None:
            return self._build(loads, key, self._bytes() if self.content is None else self.content)
        if writable != "copy":
            raise ValueError(f'writable must be "copy" or None, not {writable!r}: cached bytes are read-only')
        if self.content is not None:
            return self._build(loads, key, bytearray(self.content))
        return self._build(loads, key, private(self.mapping, writable))

    cdef object _build(self, loads, key, content):
        cdef char kind = PyBytes_AS_STRING(self.record)[self.at]
        if loads != "any" and (loads != "arrays" or kind == c"P" or kind == c"S"):
            return values.decoder(self._head(), loads, key)(content)  # which raises
        build = None if kind == c"S" else self._builder(loads, key)
        try:
            if build is None:
                return values.short_pickle(self.record, self.at, self.end, content)
            return build(content)
        except (MemoryError, FoliocacheError):
            raise
        except Exception as error:
            raise values.unreadable(key, error) from error

    @cython.critical_section
    cdef object _builder(self, loads, key):
        if self.builder is None:
            self.builder = values.decoder(self._head(), loads, key)
        return self.builder

    def part(self, loads, key, first, end):
        """Return rows first to end of an array, and others if that is no more work: the number of the first, and an array."""
        if self.mapping is not None and not self.is_large:
            lease = self._lease_all()
            if lease is not None:
                return 0, self._build(loads, key, lease)
        if self.mapping is None or self._window() is not None:
            return 0, self.build(loads, key, None)
        rows = self._rows()
        if rows is None:
            return 0, self.build(loads, key, None)
        size, build = rows
        try:
            return first, build(self.mapping.window(first * size, (end - first) * size), end - first)
        except Gone:
            raise
        except Exception:  # this process has as many leases and windows as it can; or the head is damaged, and this says so
            return 0, self.build(loads, key, None)

    @cython.critical_section
    cdef object _rows(self):
        if not self.has_rows:
            with contextlib.suppress(Exception):  # of a damaged head: that the array cannot be built says more
                self.rows = values.rows(self._head())
            self.has_rows = True
        return self.rows

    @cython.critical_section
    cdef object _window(self):
        return None if self.window is None else self.window()

    @cython.critical_section
    cdef object _set_window(self, window):
        if window is not None:
            window = _ref(window)
            PyObject_GC_UnTrack(<PyObject *>window)  # it refers to nothing that a collection has to find
        self.window = window

    cdef object _lease_all(self):
        """Return the object's bytes if one folio has all of them, else None. A copy if this process can have no more leases."""
        try:
            lease = self.mapping.lease_all()
        except Gone:
            raise
        except FoliocacheError:
            return memoryview(self.mapping.read_bytes(0, self.mapping.size))
        self.is_large = lease is None
        return lease

    cdef object _bytes(self):
        """Return the object's bytes, which stay pinned as long as a view of them exists."""
        if not self.is_large:
            lease = self._lease_all()
            if lease is not None:
                return lease
        window = self._window()
        if window is not None:
            try:
                return memoryview(window)
            except ValueError:  # the parent's, before a fork
                self._set_window(None)
        try:
            window = self.mapping.window()
        except Gone:
            raise
        except FoliocacheError:  # this process has as many leases and windows as it can
            return memoryview(self.mapping.read_bytes(0, self.mapping.size))
        self._set_window(window)
        return memoryview(window)


def private(mapping, writable):
    """Return the bytes of a mapping for one caller, who may write to them: a copy, or a window that copies what is written."""
    if mapping.size > COPY_MAX:
        with contextlib.suppress(FoliocacheError):  # this process has as many leases and windows as it can
            return mapping.window(writable=writable)
    return mapping.copy_all()
