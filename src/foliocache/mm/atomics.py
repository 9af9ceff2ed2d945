"""The only access to shared memory.

Everything in ``mm`` reads and writes the segment through the functions declared in ``atomics.pxd``: loads, stores,
read-modify-writes and fences, each with its C11 order in its name; plain accesses (``read32`` ...) for words that the protocol
orders by other means; and the futex calls. They are static inline functions of ``atomics.h``, so a ``fetch_add_acquire``
compiles to one ``lock xadd`` at the place of the call.

The model checker replaces this module with ``check.facade_model``, which has the same names over simulated memory. Therefore
this file contains only what the compiled core needs in addition: :class:`Memory`.
"""

import cython

if not cython.compiled:
    raise ImportError(
        "foliocache's core is not compiled, and there is no slow fallback. Build it with 'pip install .' (or 'make build' in a "
        "checkout); it needs a C compiler and the Python headers. Only the model checker runs these files uncompiled."
    )


class Memory:
    """One mapped segment as the core sees it: addresses and geometry, in memory that is private to this process.

    ``rw`` and ``ro`` are two buffers over the same bytes (plain memory may be passed as both); they stay exported as long as
    this object lives. ``handle`` is the argument ``mem`` of the core's functions.
    """

    def __cinit__(self, rw, ro, geometry):
        PyObject_GetBuffer(rw, cython.address(self.rw), PyBUF_WRITABLE)
        PyObject_GetBuffer(ro, cython.address(self.ro), PyBUF_SIMPLE)
        self.m.base = cython.cast(cython.p_char, self.rw.buf)
        self.m.ro = cython.cast(cython.p_char, self.ro.buf)
        self.m.size = self.rw.len
        self.m.memmap = geometry["memmap"]
        self.m.data = geometry["data"]
        self.m.clients = geometry["clients"]
        self.m.buckets = geometry["buckets"]
        self.m.ghosts = geometry["ghosts"]
        self.m.names = geometry["names"]
        self.m.backed = geometry["backed"]
        self.m.npages = geometry["npages"]
        self.m.page_shift = geometry["page_shift"]
        self.m.chunk_shift = geometry["chunk_shift"]
        self.m.nclients = geometry["nclients"]
        self.m.nbuckets = geometry["nbuckets"]
        self.m.nghosts = geometry["nghosts"]
        self.m.nnames = geometry["nnames"]
        self.m.fd = geometry.get("fd", -1)
        self.m.fenced = geometry.get("fenced", 0)
        self.m.populate = geometry.get("populate", 0)

    def __dealloc__(self):
        if self.m.forget != cython.NULL:
            self.m.forget(self.m.asked)
        PyBuffer_Release(cython.address(self.rw))
        PyBuffer_Release(cython.address(self.ro))

    def __reduce__(self):
        raise TypeError("mapped memory belongs to one process and cannot be copied or pickled")

    @property
    def handle(self):
        return cython.cast(cython.size_t, cython.address(self.m))

    def peek32(self, off):
        """Return the word at offset off (a relaxed load). For tests, statistics and audits in Python."""
        return load_relaxed(self.handle, off)

    def peek64(self, off):
        return load_relaxed64(self.handle, off)

    def poke32(self, off, value):
        store_relaxed(self.handle, off, value)

    def poke64(self, off, value):
        store_relaxed64(self.handle, off, value)

    def peek_bytes(self, off, n):
        """Return a copy of the n bytes at offset off."""
        return self.m.base[off : off + n]


def membarrier_errno():
    """Register this process for membarrier(2). Return 0, or an errno."""
    return membarrier_register()
