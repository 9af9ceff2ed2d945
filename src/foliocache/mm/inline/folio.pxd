# Written by tools/generate.py from folio.py and folio.pxd.
cimport cython
from libc.stdint cimport int64_t, uint32_t as u32, uint64_t as u64

from .. cimport atomics, layout
from ..atomics cimport mem_t
from . cimport client
from . cimport page_ref
from . cimport page_type
from ..folio cimport destroy
from ..folio cimport is_attached
from ..folio cimport prepare


cdef inline bint put(mem_t mem, u32 me, u32 pfn) noexcept nogil:
    if page_ref.put(mem, atomics.folio_at(mem, pfn)) and not destroy(mem, me, pfn):
        return False
    client.retract(mem, me, pfn)
    return True


cdef inline bint release(mem_t mem, u32 me, u32 n, u32 pfn) noexcept nogil:
    client.let_go(mem, me, n, pfn)
    if page_ref.put(mem, atomics.folio_at(mem, pfn)) and not destroy(mem, me, pfn):
        client.keep_intent(mem, me, n, pfn)
        return False
    client.finish(mem, me, pfn)
    return True


@cython.locals(first=u64, span=u32)
cdef inline bint is_identity(mem_t mem, u32 pfn, u64 ino, u64 index) noexcept nogil:
    folio = atomics.folio_at(mem, pfn)
    if atomics.read64(mem, folio + layout.F_INO) != ino:
        return False
    first = atomics.read64(mem, folio + layout.F_INDEX)
    span = page_type.span(mem, pfn)
    return index >> span << span == first
