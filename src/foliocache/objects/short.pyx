"""Unpickling of values whose pickles are in their heads: kind ``S`` of ``values``, which samples of datasets are as a rule."""
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint64_t as u64
from libc.string cimport memcpy

from pickle import loads as _loads

cdef Py_ssize_t PLACE = 16  # bytes: where a buffer begins, and its length


def short_pickle(bytes record, Py_ssize_t at, Py_ssize_t end, content):
    """Build an object of kind ``S``, whose head is bytes ``at`` to ``end`` of a record, from its bytes.

    Raises ValueError if the head is damaged, and whatever unpickling raises.
    """
    cdef Py_ssize_t count, n, stream
    cdef u64 place[2]
    cdef list buffers = []
    cdef const char *head
    if not 0 <= at <= end - 2 or end > len(record):
        raise ValueError("a head without its count of buffers")
    head = PyBytes_AS_STRING(record)
    count = <unsigned char>head[at + 1]
    stream = at + 2 + count * PLACE
    if stream > end:
        raise ValueError(f"a head without its {count} buffers")
    view = memoryview(content)
    for n in range(count):
        memcpy(place, head + at + 2 + n * PLACE, PLACE)
        buffers.append(view[place[0] : place[0] + place[1]])
    return _loads(PyBytes_FromStringAndSize(head + stream, end - stream), buffers=buffers)
