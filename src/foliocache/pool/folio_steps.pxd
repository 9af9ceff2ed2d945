cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64

from .attachment cimport Attachment
from .lease cimport Lease
from ..filler.miss cimport Filler
from ..filler.steps cimport Steps
from ..mm cimport atomics, layout
from ..mm.atomics cimport mem_t
from ..mm.inline cimport filemap, page_type


cdef class FolioSteps(Steps):
    cdef readonly Attachment attachment
    cdef readonly Filler filler
    cdef mem_t mem
    cdef u64 ino, head, mark, digest_lo, digest_hi, key_digest
    cdef u64 stride, most
    cdef u32 height, order, span, shift, key_length
    cdef bint is_fixed
    cdef bytes text

    cdef Lease _grab(self, u64 index, u64 count)
    cdef u32 _sleep(self, Lease lease, u64 timeout_ns) except? 0xFFFFFFFF
    cdef void _bind(self, u64 ino) noexcept
    cdef bint _open(self) noexcept

    @cython.final
    cdef inline Py_ssize_t _length(self, u64 index) noexcept:
        return min(self.unit_size, self.size - (index << self.shift))

    @cython.final
    cdef inline u64 _units(self, u64 length) noexcept:
        """Return the number of units that hold ``length`` bytes."""
        return (length + self.unit_size - 1) >> self.shift

    @cython.final
    cdef inline u64 _rest(self, u32 pfn, u64 index) noexcept:
        """Return the number of bytes of a held folio from unit index on; one unit's if the folio's words contradict each
        other."""
        cdef u64 first = filemap.first_of(self.mem, pfn)
        cdef u64 there = self._bytes(pfn, first)
        cdef u64 begin = (index - first) << self.shift
        return there - begin if there > begin else <u64>self._length(index)

    @cython.final
    cdef inline u64 _bytes(self, u32 pfn, u64 first) noexcept:
        """Return the number of bytes of a held folio whose first unit is ``first``; 0 if its words contradict each other."""
        cdef u64 length = atomics.read32(self.mem, atomics.folio_at(self.mem, pfn) + layout.F_LENGTH)
        cdef u64 expected = min(self.unit_size << page_type.span(self.mem, pfn), self.size - (first << self.shift))
        return expected if length == expected else 0

    @cython.final
    cdef inline bint _fits(self, u32 pfn, u64 length) noexcept:
        """Return True if ``length`` bytes from page pfn on are within the pool: the last check before bytes are handed out."""
        cdef u32 shift = atomics.page_shift(self.mem)
        return (<u64>pfn << shift) + length <= <u64>atomics.npages(self.mem) << shift

    @cython.final
    cdef inline bint _is_ours(self, u64 at) noexcept:
        """Return True if the filled folio at this descriptor has this object's digest, and not only its ino.

        False only if a record was damaged, so that looking up one object finds another.
        """
        return atomics.read64(self.mem, at + layout.F_DIGEST) == self.digest_lo

    @cython.final
    cdef inline bint _bind_units(self, Lease lease, u32 entry, u32 pfn, u64 index) noexcept:
        """Bind a lease to the units of a held folio from unit index on.

        Returns False if the tables are damaged. The pin is then kept: it is not known which folio it counts for.
        """
        cdef u64 begin = (index - filemap.first_of(self.mem, pfn)) << self.shift
        cdef u64 length = self._rest(pfn, index)
        if not self._fits(pfn, begin + length):
            return False
        lease._bind(self.attachment, entry, pfn, begin, length)
        return True
