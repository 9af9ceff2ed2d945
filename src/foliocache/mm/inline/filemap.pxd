# Written by tools/generate.py from filemap.py and filemap.pxd.
cimport cython
from libc.stdint cimport int64_t, uint32_t as u32, uint64_t as u64

from .. cimport atomics, layout
from ..atomics cimport mem_t
from . cimport backing
from . cimport client
from . cimport folio
from . cimport page_ref
from . cimport xarray
from ..filemap cimport _alloc
from ..filemap cimport _find_locked
from ..filemap cimport _grab
from ..filemap cimport _insert
from ..filemap cimport _length
from ..filemap cimport _prepare
from ..filemap cimport add
from ..filemap cimport complete
from ..filemap cimport finish_fill
from ..filemap cimport forget
from ..filemap cimport grab
from ..filemap cimport invalidate
from ..filemap cimport open
from ..filemap cimport remove
from ..filemap cimport resolve
from ..filemap cimport truncate
from ..filemap cimport withdraw


cdef inline u32 find_get(mem_t mem, u32 me, u64 ino, u64 head, u32 height, u64 index) noexcept nogil:
    for _ in range(layout.FIND_RETRIES):
        slot = xarray.find(mem, head, height, index)
        if slot == 0:
            break
        pfn = xarray.load(mem, slot)
        if pfn == layout.NIL:
            break
        client.announce(mem, me, pfn)
        got = page_ref.try_get(mem, atomics.folio_at(mem, pfn))
        if got == layout.GOT and xarray.reload(mem, slot) == pfn and folio.is_identity(mem, pfn, ino, index):
            return pfn
        if got == layout.DEAD:
            client.retract(mem, me, pfn)
        elif not folio.put(mem, me, pfn):
            break
    return layout.NIL


@cython.locals(pfn=u32)
cdef inline u32 lookup(mem_t mem, u32 me, u32 n, u64 ino, u64 head, u64 mark, u32 height, u64 index) noexcept nogil:
    client.op_begin(mem, me)
    pfn = find_get(mem, me, ino, head, height, index) if backing.is_set(mem, mark) else layout.NIL
    if pfn == layout.NIL:
        client.op_end(mem, me)
    else:
        client.keep(mem, me, n, pfn)
    return pfn


cdef inline u64 first_of(mem_t mem, u32 pfn) noexcept nogil:
    return atomics.read64(mem, atomics.folio_at(mem, pfn) + layout.F_INDEX)
