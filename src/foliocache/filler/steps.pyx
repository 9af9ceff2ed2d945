"""What a filler may do to the folios of one object: all that it knows of the pool.

``pool.lease.FolioMap`` implements these steps; they are calls through C pointers, out of reach for Python code. A *lease* here
is a ``pool.lease.Lease``. While ``is_filling`` holds for it, its folio is locked, and this process has to ``complete`` or
``withdraw`` it; a lease that is dropped on whatever exception withdraws it. A filler that holds such leases waits for no other
filler.
"""
from libc.stdint cimport uint32_t as u32, uint64_t as u64


cdef class Steps:
    """The steps, of an object of ``size`` bytes in ``unit_count`` units of ``unit_size`` bytes, the last one shorter.

    A lease is on units of one folio, up to the folio's end. ``previous`` is the unit that was used last, ``identity`` what the
    same object has in all its mappings here.
    """

    cdef u64 probe(self, u64 index, bint filled) except? 0:
        """How many units from index on are cached in one folio; 0 if there are none. It does not count as a use.

        filled: a folio that is being filled counts as none.
        """
        raise NotImplementedError

    cdef Py_ssize_t length(self, u64 index) noexcept:
        """Bytes of unit index."""
        return 0

    cdef object grab(self, u64 index, u64 count):
        """A lease on unit index and those behind it in its folio. None if the pool has no room.

        If there is no folio, one is added: ``is_filling``, and the lease is on all of it. It begins at unit index and has
        ``count`` units at most; or it has the size that the mapping gives to all folios, and may begin before.
        """
        raise NotImplementedError

    cdef u64 units(self, lease) noexcept:
        """How many units a lease has."""
        return 0

    cdef Py_ssize_t bytes(self, lease) noexcept:
        """How many bytes a lease has."""
        return 0

    cdef u64 widen(self, lease) noexcept:
        """Let the lease be on all of its folio, which is to be filled. Returns the folio's first unit.

        The lease has no bytes if the folio's words contradict each other."""
        return 0

    cdef void narrow(self, lease, u64 index) noexcept:
        """Let a lease on all of a folio be on unit index and those behind it."""

    cdef bint is_filling(self, lease) noexcept:
        """True if this process has to fill the lease's folio."""
        return False

    cdef int wait(self, lease, u64 timeout_ns) except -1:
        """Sleep until another's fill of a lease's folio ends. Raises what a signal's handler raises.

        Returns FILLED, FAILED (it is withdrawn), LATE after timeout_ns, OURS (the filler has died, and this process takes its
        place), or FOREIGN (the tables are damaged: the folio holds another object's bytes).
        """
        raise NotImplementedError

    cdef u32 *sleeper(self, lease, u32 *flags) noexcept:
        """For who waits by other means: the word to sleep on, while it is ``flags``. NULL if the fill has ended."""
        return NULL

    cdef bytes explanation(self, lease):
        """After FAILED, what the filler has written down about its source (``failure.read``); None if nothing."""
        raise NotImplementedError

    cdef object target(self, lease):
        """A writable buffer over the folio, all zeros, valid while the lease is filling. Its ``views`` counts those in use."""
        raise NotImplementedError

    cdef int write(self, lease, const char *data) except -1:
        """Copy the folio's bytes from data, as many as it has."""
        raise NotImplementedError

    cdef int complete(self, lease, bint mark) except -1:
        """The content is there: wake all who wait. mark: a hit on this folio starts reading ahead."""
        raise NotImplementedError

    cdef void explain(self, lease, bytes reason) noexcept:
        """Write into the folio why it could not be filled, for those who wait; before it is withdrawn."""

    cdef int withdraw(self, lease) except -1:
        """Give the fill up, and the lease."""
        raise NotImplementedError

    cdef object private(self, bytes content):
        """A lease on bytes of this process's own, uncached."""
        raise NotImplementedError

    cdef u32 epoch(self) noexcept:
        """How many forks this process has behind it."""
        return 0

    cdef int count(self, u32 counter, u64 n) except -1:
        """Add n to one of this process's statistics, a ``layout.COUNT_`` number."""
        raise NotImplementedError

    cdef bint reap(self) except -1:
        """Settle what dead processes have left. True if there was any."""
        raise NotImplementedError
