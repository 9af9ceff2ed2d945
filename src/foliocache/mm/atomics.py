"""The only door to shared memory.

Everything in ``mm`` reads and writes the segment through the names of ``atomics.pxd``: a load, a store, a read-modify-write, a
fence, each with its C11 order in its name; plain accesses (``read32`` ...) for words that the protocol orders by other means; and
the futex calls. They are static inline functions of ``atomics.h``, so a ``fetch_add_acquire`` is one ``lock xadd`` where it stands.

The model checker replaces this module by ``foliocache.check.atomics``, which has the same names over simulated memory. That is
also why nothing here can be written in Python: this file holds only the compiled world's :class:`Memory`.
"""
import cython

if not cython.compiled:
    raise ImportError(
        "foliocache's core is not compiled, and there is no slow fallback. Build it with 'pip install .' (or 'make build' in a "
        "checkout); it needs a C compiler and the Python headers. Only the model checker runs these files uncompiled."
    )


class Memory:
    """One mapped segment as the core sees it: addresses and geometry, private to this process.

    ``handle`` is what the core's functions take as ``mem``. ``owner`` is kept alive as long as this object.
    """

    def __init__(self, base, ro, size, geometry, owner):
        self.m.base = cython.cast(cython.p_char, cython.cast(cython.size_t, base))
        self.m.ro = cython.cast(cython.p_char, cython.cast(cython.size_t, ro))
        self.m.size = size
        self.m.memmap = geometry["memmap"]
        self.m.data = geometry["data"]
        self.m.clients = geometry["clients"]
        self.m.buckets = geometry["buckets"]
        self.m.ghosts = geometry["ghosts"]
        self.m.npages = geometry["npages"]
        self.m.page_shift = geometry["page_shift"]
        self.m.nclients = geometry["nclients"]
        self.m.nbuckets = geometry["nbuckets"]
        self.m.nghosts = geometry["nghosts"]
        self.owner = owner

    @property
    def handle(self):
        return cython.cast(cython.size_t, cython.address(self.m))
