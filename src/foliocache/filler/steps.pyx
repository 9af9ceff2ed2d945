"""The interface through which a filler uses the pool: its steps on the folios of one object.

``pool.folio_steps.FolioSteps`` implements the steps. They are called through C pointers, and cannot be called from Python. A
*lease* here is a ``pool.lease.Lease``. While ``is_filling`` is true for it, its folio is locked, and this process has to
``complete`` or ``withdraw`` the folio; if the lease is dropped, after whatever exception, it withdraws the folio. A filler that
holds such leases never waits for another filler.
"""
from libc.stdint cimport uint32_t as u32, uint64_t as u64


cdef class Steps:
    """The steps for an object of ``size`` bytes in ``unit_count`` units of ``unit_size`` bytes; the last one may be shorter.

    A lease is on units of one folio, up to the folio's end. ``previous`` is the unit that was used last; ``identity`` is equal
    in all of this process's mappings of the object.
    """

    cdef u64 probe(self, u64 index, bint filled) except? 0:
        """Return how many units from index on are in one cached folio; 0 if unit index is not cached. This is not a use.

        filled: return 0 for a folio that is still being filled.
        """
        raise NotImplementedError

    cdef Py_ssize_t length(self, u64 index) noexcept:
        """Return the number of bytes of unit index."""
        return 0

    cdef object grab(self, u64 index, u64 count):
        """Return a lease on the units of a folio from unit index on, or None if the pool has no room.

        If unit index is not cached, a folio is added. Then ``is_filling`` is true, and the lease is on the whole folio. The
        folio begins at unit index and has at most ``count`` units; if the mapping has a fixed folio size, the folio has that
        size, and may begin before unit index.
        """
        raise NotImplementedError

    cdef u64 units(self, lease) noexcept:
        """Return the number of units of a lease."""
        return 0

    cdef Py_ssize_t bytes(self, lease) noexcept:
        """Return the number of bytes of a lease."""
        return 0

    cdef u64 widen(self, lease) noexcept:
        """Extend a lease to all of its folio, which will be filled. Return the folio's first unit.

        The lease then has 0 bytes if the folio's words contradict each other."""
        return 0

    cdef void narrow(self, lease, u64 index) noexcept:
        """Cut a lease on all of a folio to the units from index on."""

    cdef bint is_filling(self, lease) noexcept:
        """Return True if this process has to fill the lease's folio."""
        return False

    cdef int wait(self, lease, u64 timeout_ns) except -1:
        """Sleep until another filler's fill of a lease's folio ends. Raises what a signal handler raises.

        Returns FILLED; FAILED (the folio has been withdrawn); LATE after timeout_ns; OURS (the filler has died, and this
        process is now the filler); or FOREIGN (the tables are damaged: the folio has another object's bytes).
        """
        raise NotImplementedError

    cdef u32 *sleeper(self, lease, u32 *flags) noexcept:
        """For waiting without ``wait``: return the word to sleep on while it is ``flags``; NULL if the fill has ended."""
        return NULL

    cdef bytes explanation(self, lease):
        """After FAILED, return the filler's record of its source's failure (see ``failure.read``); None if it left none."""
        raise NotImplementedError

    cdef object target(self, lease, bint clear):
        """Return a writable buffer of the folio, valid while the lease is filling. ``views``: those in use.

        clear: it is all zeros; otherwise it has whatever the page held before. Before much is written to that, ``populate`` it.
        """
        raise NotImplementedError

    cdef int populate(self, lease) except -1:
        """Have the pages of a folio that is to be filled mapped in one call, which may take long."""
        raise NotImplementedError

    cdef int write(self, lease, const char *data) except -1:
        """Copy the folio's content from data, as many bytes as the lease has."""
        raise NotImplementedError

    cdef int deliver(self, lease, result) except -1:
        """Before a folio is complete: copy of its content what a reader wants besides, into the reader's ``result``."""
        raise NotImplementedError

    cdef int complete(self, lease, bint mark) except -1:
        """Mark the folio's content as complete, and wake its waiters. mark: a hit on this folio starts reading ahead."""
        raise NotImplementedError

    cdef void explain(self, lease, bytes reason) noexcept:
        """Before a folio is withdrawn: write into it, for the waiters, why it could not be filled."""

    cdef int withdraw(self, lease) except -1:
        """Withdraw the folio if the lease is filling, and release the lease."""
        raise NotImplementedError

    cdef object private(self, bytes content):
        """Return a lease on a private copy, which is not cached."""
        raise NotImplementedError

    cdef u32 epoch(self) noexcept:
        """Return the number of forks between the process that attached and this one."""
        return 0

    cdef int count(self, u32 counter, u64 n) except -1:
        """Add n to one of this process's statistics, a ``layout.COUNT_`` number."""
        raise NotImplementedError

    cdef int request(self, u32 source, u64 ns, u64 length, bint failed) except -1:
        """Count a call of a source of the kind ``layout.SOURCES[source]``: how long it took, and the bytes that it brought."""
        raise NotImplementedError

    cdef int waited(self, u64 ns) except -1:
        """Count a wait for another filler: how long it took."""
        raise NotImplementedError

    cdef bint reap(self) except -1:
        """Settle what dead processes have left. Return True if there was a dead process."""
        raise NotImplementedError
