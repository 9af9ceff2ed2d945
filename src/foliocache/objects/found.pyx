"""Objects as the records of their names describe them: what a process keeps of each that it has found, and how it finds one.

Workers keep thousands of them, so they are small, and the garbage collector does not know them: a full collection would copy
the heap of a forked process. No cycle runs through one.

All of a hit is here, compiled. A reader does something else between two hits, and what it does takes the caches of the
processor: each Python function on the way then costs several times what it costs in a loop.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.object cimport PyObject
from libc.string cimport memcmp

import contextlib
from weakref import ref as _ref

from ..errors import FoliocacheError
from ..sizes import quoted
from . import values
from .short import short_pickle

cdef extern from "Python.h":
    void PyObject_GC_UnTrack(PyObject *object)

cdef Py_ssize_t RECORD_MAX = 0xffff
cdef Py_ssize_t COPY_MAX = 1 << 20  # bytes; a copy of so many takes less time than the page faults of a window
cdef Py_ssize_t LENT_MIN = 64 << 10  # bytes; a copy of less takes no more time than a window


MISSING = object()
cdef object _WITH_VERSION = object()  # makes a place that is nobody's key


class Gone(FoliocacheError):
    """A part of an object was evicted."""


@cython.final
@cython.no_gc
@cython.auto_pickle(False)
cdef class Members:
    """A context in which a set has some members. Compiled: a signal handler that raises cannot part them from the block. An
    ``ExitStack`` can: it is Python."""
    cdef set group
    cdef tuple members

    def __init__(self, set group not None, tuple members not None):
        self.group, self.members = group, members

    def __reduce__(self):
        raise TypeError("a membership is this process's, and cannot be copied or pickled")

    def __enter__(self):
        self.group.update(self.members)

    def __exit__(self, kind, error, traceback):
        self.group.difference_update(self.members)

    def call(self, function):
        """Return what the function returns, called in this context."""
        self.group.update(self.members)
        try:
            return function()
        finally:
            self.group.difference_update(self.members)


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
    cdef unsigned char is_large, has_rows  # more than one folio; a byte each, since thousands are kept

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

    cpdef build(self, loads, key, writable):
        """Build the object. Raises Gone if a part of it was evicted, ValueError if ``writable`` is invalid."""
        if writable is None:
            return self._build(loads, key, self._bytes() if self.content is None else self.content)
        if writable != "copy":
            raise ValueError(f'writable must be "copy" or None, not {quoted(writable)}: cached bytes are read-only')
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
                return short_pickle(self.record, self.at, self.end, content)
            return build(content)
        except Exception as error:
            if values.is_told(self._head(), error):
                raise values.unreadable(key, error) from error
            raise

    @cython.critical_section
    cdef object _builder(self, loads, key):
        if self.builder is None:
            self.builder = values.decoder(self._head(), loads, key)
        return self.builder

    cpdef part(self, loads, key, first, end):
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
        except Exception as error:
            # If this process has as many leases and windows as it can; or if the head is damaged, and this says so.
            if not isinstance(error, (FoliocacheError, *values.DAMAGE)):
                raise
            return 0, self.build(loads, key, None)

    cdef object raw(self, bytes head, Py_ssize_t begin, Py_ssize_t length):
        """Return some bytes of the array with this head, None if the object is another one or is damaged. Raises Gone."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(head)
        if size != self.end - self.at or memcmp(PyBytes_AS_STRING(self.record) + self.at, PyBytes_AS_STRING(head), size):
            return None
        if begin + length > len(self.content if self.mapping is None else self.mapping):
            return None
        if self.mapping is None:
            return memoryview(self.content)[begin : begin + length]
        lease = self.mapping.lease(begin, length)
        if len(lease) == length:
            return lease
        try:
            return self.mapping.window(begin, length)
        except Gone:
            raise
        except FoliocacheError:  # this process has as many leases and windows as it can
            return self.mapping.read_bytes(begin, length)

    @cython.critical_section
    cdef object _rows(self):
        if not self.has_rows:
            with contextlib.suppress(*values.DAMAGE):  # of a damaged head: that the array cannot be built says more
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


cpdef private(mapping, writable):
    """Return the bytes of a mapping for one caller, who may write to them: a copy, or a window that copies what is written."""
    try:
        if mapping.size > COPY_MAX:
            return mapping.window(writable=writable)
        window = mapping.lent_window() if mapping.size >= LENT_MIN else None
        if window is not None:
            return window
    except Gone:
        raise
    except FoliocacheError:  # this process has as many leases and windows as it can
        pass
    return mapping.copy_all()


cdef class Lookup:
    """How the objects of a pool are found; ``Objects`` derives from it, and has the rest."""
    cdef readonly object _names
    cdef public object _known  # a dict: a process may have thousands, those without a version by their keys alone

    def __init__(self, names):
        self._names, self._known = names, {}

    def know(self, key, version):
        """Return what this process keeps for an object. Raises ValueError for an invalid key or version."""
        return self._know(key, version)

    def find(self, key, version, expiry, loads, writable):
        """Return the object if the pool has it, else MISSING. Raises ValueError if the key or version is invalid, or if another
        option is, and the pool has the object."""
        return self._find(self._know(key, version), key, expiry, loads, writable)

    def find_each(self, keys, version, expiry, loads, writable):
        """Do what ``find`` does for each of some keys. Return a list."""
        return [self._find(self._know(key, version), key, expiry, loads, writable) for key in keys]

    def find_known(self, known, key, expiry, loads, writable):
        """Do what ``find`` does, for what ``know`` has returned."""
        return self._find(known, key, expiry, loads, writable)

    def rows_of(self, known, key, expiry, first, end):
        """Return some of an array, of which rows first to end are wanted: the number of its first row, and the array. If the
        pool does not have it, (0, MISSING). Of another object than an array, all of it. ``known`` is what ``know`` returned."""
        cdef Found found = self._look_up(known, key, expiry)
        if found is None:
            return 0, MISSING
        try:
            return found.part("arrays", key, first, end)
        except Gone:
            self._lose(known, key)
            return 0, MISSING

    def bytes_of(self, known, key, expiry, bytes head not None, Py_ssize_t begin, Py_ssize_t length):
        """Return some bytes of an array, at least one, where they lie. None if the pool does not have it, or what it has does
        not have this head. ``known`` is what ``know`` returned."""
        cdef Found found = self._look_up(known, key, expiry)
        if found is None:
            return None
        try:
            return found.raw(head, begin, length)
        except Gone:
            self._lose(known, key)
            return None

    @cython.final
    cdef object _know(self, key, version):
        place = key if type(version) is str and not version else (_WITH_VERSION, key, version)
        try:
            return self._known[place]
        except (KeyError, TypeError):
            return self._remember(place, key, version)

    @cython.final
    cdef object _find(self, known, key, expiry, loads, writable):
        cdef Found found = self._look_up(known, key, expiry)
        if found is None:
            return MISSING
        try:
            return found.build(loads, key, writable)
        except Gone:
            self._lose(known, key)
            return MISSING

    @cython.final
    cdef Found _look_up(self, known, key, expiry):
        cdef Found found = known.found
        record = known.look(found.record)
        if record is None:
            return None
        if record is not found.record:
            found = known.found = self._learn(key, record)
        if found.at == found.end or (expiry is not None and not self._is_young(record, expiry)):
            return None
        return found
