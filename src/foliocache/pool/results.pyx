"""Many results at once: bytes objects whose content is still to be written, by threads that fill folios, or by their readers.

The kernel clears and maps fresh memory page by page, which takes several times as long as copying into it. malloc lays the
objects side by side, and writes a few words before each; so the memory is neither one object's, nor untouched, when the kernel
can be asked for huge pages. ``MADV_COLLAPSE`` makes them of what is there.
"""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport ENOMEM, errno
from libc.stdint cimport uint64_t as u64
from libc.stdlib cimport free, malloc, qsort

from .folio_map cimport FolioMap
from .result cimport Result, check, new_result, sorted_results

cdef extern from "<sys/mman.h>" nogil:
    int madvise(void *where, size_t length, int advice)
    int mincore(void *where, size_t length, unsigned char *found)

cdef int MADV_HUGEPAGE = 14
cdef int MADV_COLLAPSE = 25
cdef u64 HUGE_PAGE = 2 << 20
cdef u64 AT_ONCE = 64 << 20  # bytes that one call of the kernel makes huge
cdef u64 APART = 64 << 10  # bytes between two objects that count as neighbours
cdef Py_ssize_t TOGETHER_MIN = 4 << 20  # bytes of all results; fewer are made one by one

_SETTING = "/sys/kernel/mm/transparent_hugepage/enabled"
_allowed: bool | None = None


cdef struct Range:
    u64 begin
    u64 end


@cython.final
@cython.auto_pickle(False)
cdef class Results:
    """The results of reads of ranges: (mapping, or None, offset, length) each. Each is read once; any threads may do so at a
    time. ended: an event that is set when no one waits for them any longer; or None."""
    cdef list results
    cdef dict by_mapping
    cdef object ended

    def __init__(self, list ranges not None, ended=None):
        cdef Py_ssize_t length, most = 0
        cdef FolioMap mapping
        self.ended = ended
        for mapping, _, length in ranges:
            most += length if mapping is not None else 0
        if most >= TOGETHER_MIN:
            self.results = [_result(*one, ended) for one in ranges]
            self.by_mapping = {}
            for (mapping, _, _), result in zip(ranges, self.results):
                if result is not None:
                    self.by_mapping.setdefault(mapping, []).append(result)
            self.by_mapping = {mapping: sorted_results(results) for mapping, results in self.by_mapping.items()}

    def make_huge(self):
        """Give the memory huge pages, if the machine has them. It may be written to meanwhile."""
        if self.results is not None and _may_be_huge():
            _make_huge([(<Result>result).content for result in self.results if result is not None])

    def of(self, FolioMap mapping not None):
        """Return what ``Filler.read_runs`` delivers all results of a mapping to; None if there are none."""
        return self.by_mapping.get(mapping) if self.by_mapping is not None else None

    def __reduce__(self):
        raise TypeError("results that are still to be read cannot be copied or pickled")

    def read(self, Py_ssize_t number, FolioMap mapping not None, u64 offset, u64 length):
        """Return a range of an object, as its ``read_bytes`` does: the result of that number, if it has that length."""
        cdef Result made = None
        check(self.ended)
        if self.results is not None:
            if not 0 <= number < len(self.results):
                raise IndexError(f"result {number} of {len(self.results)}")
            made, self.results[number] = self.results[number], None
        if made is None or made.start != offset or made.end != offset + length:
            return mapping.read_bytes(offset, length)
        mapping._gather(offset, offset + length, PyBytes_AS_STRING(made.content), made)
        return made.content


def _result(FolioMap mapping, offset, Py_ssize_t length, ended):
    """Return a Result for a range; None without a mapping, or without bytes, or if the object has not all of it."""
    if mapping is None or length == 0 or offset + length > mapping.size:
        return None
    return new_result(PyBytes_FromStringAndSize(NULL, length), offset, mapping.shift, ended)


cdef bint _may_be_huge() except -1:
    """Return True unless the machine's administrator wants no huge pages, which MADV_COLLAPSE would not respect."""
    global _allowed
    if _allowed is None:
        try:
            with open(_SETTING, "rb") as file:
                _allowed = b"[never]" not in file.read()
        except OSError:
            _allowed = False
    return _allowed


cdef int _by_begin(const void *one, const void *other) noexcept nogil:
    cdef u64 a = (<const Range *>one).begin
    cdef u64 b = (<const Range *>other).begin
    return (a > b) - (a < b)


cdef int _make_huge(list memory) except -1:
    """Give huge pages to what lies side by side. What the kernel refuses stays as it is."""
    cdef Py_ssize_t count = 0
    cdef Range *ranges = <Range *>malloc(max(len(memory), 1) * sizeof(Range))
    if ranges == NULL:
        raise MemoryError
    for one in memory:
        if one is not None:
            ranges[count].begin = <u64>PyBytes_AS_STRING(one)
            ranges[count].end = ranges[count].begin + PyBytes_GET_SIZE(one)
            count += 1
    with nogil:
        qsort(ranges, count, sizeof(Range), _by_begin)
        _make_neighbours_huge(ranges, count)
    free(ranges)
    return 0


cdef void _make_neighbours_huge(Range *ranges, Py_ssize_t count) noexcept nogil:
    cdef Py_ssize_t n, first = 0
    for n in range(1, count + 1):
        if n == count or ranges[n].begin - ranges[n - 1].end > APART:
            if not _collapse(ranges, first, n):
                return
            first = n


cdef bint _collapse(Range *ranges, Py_ssize_t n, Py_ssize_t end_n) noexcept nogil:
    """Ask for huge pages where objects n .. end_n - 1 lie, except where there are pages already. False if the kernel has none.

    A huge page in which no object begins is still untouched, and comes with its first write.
    """
    cdef u64 at = (ranges[n].begin + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1)
    cdef u64 end = ranges[end_n - 1].end & ~(HUGE_PAGE - 1)
    cdef u64 first = at
    cdef bint begins
    while at < end:
        while n < end_n and ranges[n].begin < at:
            n += 1
        begins = n < end_n and ranges[n].begin < at + HUGE_PAGE
        if not begins:
            madvise(<void *>at, HUGE_PAGE, MADV_HUGEPAGE)
        if not begins or at - first == AT_ONCE or _is_used(at):
            if not _collapse_all(first, at):
                return False
            first = at if begins and not _is_used(at) else at + HUGE_PAGE
        at += HUGE_PAGE
    return _collapse_all(first, end)


cdef bint _collapse_all(u64 begin, u64 end) noexcept nogil:
    return begin >= end or madvise(<void *>begin, end - begin, MADV_COLLAPSE) == 0 or errno != ENOMEM


cdef bint _is_used(u64 at) noexcept nogil:
    """Return True if a huge page's range has pages, besides the few in which objects begin."""
    cdef unsigned char[3] found
    cdef int n, count = 0
    for n in range(3):
        found[n] = 0
        if mincore(<void *>(at + (<u64>(n + 1) << 19) + (<u64>n << 12)), 4096, &found[n]) == 0:
            count += found[n] & 1
    return count > 1
