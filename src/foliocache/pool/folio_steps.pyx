"""The steps of a fill (``filler.steps``), on the folios of a pool."""
cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_CheckSignals
from cpython.object cimport PyObject
from libc.stdint cimport uint32_t as u32, uint64_t as u64
from libc.string cimport memcpy, memset

from .attachment cimport Attachment, enter, leave, section_t, spare
from .lease cimport Lease, Target, new_lease, new_target
from .result cimport Sink
from ..filler.buffers cimport clear_long, copy_long
from ..filler.miss cimport Filler
from ..filler.steps cimport FAILED, FILLED, FOREIGN, LATE, OURS, Steps
from ..mm cimport atomics, backing, fill, layout, mapping
from ..mm.atomics cimport fc_mem, mem_t
from ..mm cimport client as statistics
from ..mm.inline cimport filemap, flags, folio

from ..filler.failure import RECORD_MAX
from ..observe import spans

# One call of the source reads at most 1/READ_SHARE of the pool.
cdef u64 READ_SHARE = 4


@cython.auto_pickle(False)
cdef class FolioSteps(Steps):
    """An object's identity, the size of its units, its index, and the steps of a fill on its folios."""
    def __init__(
        self, Attachment attachment not None, Filler filler not None, u64 size, u32 order, u32 height, bytes digest not None,
        bytes key_digest not None, bytes key not None, bytes version not None, u32 span, bint is_fixed, u64 stride
    ):
        """digest: 16 bytes, of key, version and size; key_digest: 8 bytes, of the key; key, version: text to show to people.
        A unit has 2^order pages; a new folio has up to 2^span units, or exactly so many if is_fixed. ``pieces`` reads
        ``stride`` bytes at a time."""
        if self.attachment is not None:
            raise TypeError("a mapping is one object at one version for as long as it lives; make another one")
        attachment.join()
        self.mem = attachment.mem
        self.size = size
        self.order = order
        self.span = span
        self.is_fixed = is_fixed
        self.height = height
        self.shift = atomics.page_shift(self.mem) + order
        self.unit_size = <u64>1 << self.shift
        self.stride = self._units(stride)
        self.most = max((<u64>backing.limit(self.mem) << atomics.page_shift(self.mem)) // READ_SHARE >> self.shift, <u64>1)
        self.digest_lo = int.from_bytes(digest[:8], "little")
        self.digest_hi = int.from_bytes(digest[8:16], "little")
        self.key_digest = int.from_bytes(key_digest, "little")
        self.text = key + version
        self.key_length = len(key)
        self.previous = layout.HASH_MASK
        with cython.critical_section(attachment):
            self._bind(filemap.resolve(self.mem, attachment.me, self.digest_lo, self.digest_hi))
        self.unit_count = self._units(size)
        self.identity = self.mem, digest
        filler.guard = attachment
        self.filler = filler
        self.attachment = attachment

    cdef u64 probe(self, u64 index, bint filled) except? 0:
        cdef mem_t mem = self.mem
        cdef u32 pfn, seen
        cdef u64 there
        self.attachment.join()
        with cython.critical_section(self.attachment):
            pfn = filemap.lookup(mem, self.attachment.me, spare(), self.ino, self.head, self.mark, self.height, index)
            if pfn == layout.NIL:
                return 0
            seen = flags.load(mem, atomics.folio_at(mem, pfn))
            there = self._units(self._rest(pfn, index))
            if not folio.release(mem, self.attachment.me, spare(), pfn):
                self.attachment.wait(spare())
        return there if seen & layout.PG_UPTODATE or not filled else 0

    cdef Py_ssize_t length(self, u64 index) noexcept:
        return self._length(index)

    cdef u64 units(self, lease) noexcept:
        return self._units((<Lease>lease).length)

    cdef Py_ssize_t bytes(self, lease) noexcept:
        return (<Lease>lease).length

    cdef u64 widen(self, lease) noexcept:
        cdef Lease whole = lease
        cdef u64 first = filemap.first_of(self.mem, whole.pfn)
        whole._bind(self.attachment, whole.entry, whole.pfn, 0, self._bytes(whole.pfn, first))
        return first

    cdef void narrow(self, lease, u64 index) noexcept:
        self._bind_units(lease, (<Lease>lease).entry, (<Lease>lease).pfn, index)

    cdef object grab(self, u64 index, u64 count):
        self.attachment.join()
        with cython.critical_section(self.attachment):
            return self._grab(index, count)

    cdef Lease _grab(self, u64 index, u64 count):
        cdef u64 got = layout.GRAB_GONE
        cdef u32 entry
        cdef u32 span = 0
        cdef Lease lease = new_lease()
        self.attachment.tidy()
        if not self.attachment.watching:
            self.attachment.before_memory()
        entry = self.attachment.take()
        if entry == layout.NIL:
            return None
        if self.is_fixed:
            span = self.span
        while span < self.span and <u64>2 << span <= count and index & ((<u64>2 << span) - 1) == 0:
            span += 1
        for _ in range(layout.GRAB_TRIES):
            if self.ino or self._open():
                got = filemap.add(self.mem, self.attachment.me, entry, self.ino, index, self.order, span, self.size)
                if got != layout.GRAB_GONE:
                    break
                self.ino = 0
        if got == layout.GRAB_NOMEM or got == layout.GRAB_GONE:
            self.attachment.give(entry)
            return None
        if not self._bind_units(lease, entry, <u32>got, index):
            return None
        if got & layout.GRAB_ADDED:
            lease.filling = True
            self.widen(lease)
            if lease.length == 0:
                lease.release()
                return None
        return lease

    cdef bint is_filling(self, lease) noexcept:
        return (<Lease>lease).filling

    cdef int wait(self, lease, u64 timeout_ns) except -1:
        cdef Lease waiting = lease
        cdef u64 at = atomics.folio_at(self.mem, waiting.pfn)
        cdef u32 seen = self._sleep(waiting, timeout_ns)
        if waiting.filling:
            return OURS
        if seen & layout.PG_UPTODATE:
            if not self._is_ours(at):
                return FOREIGN
            flags.mark_referenced(self.mem, at, seen)
            return FILLED
        return LATE if seen & layout.PG_LOCKED else FAILED

    cdef u32 _sleep(self, Lease lease, u64 timeout_ns) except? 0xFFFFFFFF:
        """Wait until the fill of a pinned folio ends. Return the folio's flags.

        If the filler has died, this process is now the filler, and the lease is ``filling``, unless the content was complete.
        """
        cdef u32 pfn = lease.pfn
        cdef mem_t mem = self.mem
        cdef u64 deadline = atomics.now_ns() + timeout_ns
        cdef u64 now = 0
        cdef u32 seen = flags.load(mem, atomics.folio_at(mem, pfn))
        cdef section_t section
        # In slices: a signal that arrives just before the futex call does not interrupt it, and its handler must not wait for
        # the filler; and a filler that dies wakes no one.
        while seen & layout.PG_LOCKED and now < deadline:
            enter(&section, <PyObject *>self.attachment)
            lease.filling = fill.take_over(mem, self.attachment.me, pfn)
            leave(&section)
            if lease.filling:
                seen = flags.load(mem, atomics.folio_at(mem, pfn))
                if seen & layout.PG_UPTODATE:
                    self.complete(lease, False)
                return seen
            now = atomics.now_ns()
            with nogil:
                seen = fill.wait(mem, pfn, min(deadline - min(now, deadline), layout.WAIT_SLICE_NS))
            PyErr_CheckSignals()
        return seen

    cdef bytes explanation(self, lease):
        cdef Lease failed = lease
        if not flags.load(self.mem, atomics.folio_at(self.mem, failed.pfn)) & layout.PG_REASON:
            return None
        return ((<const fc_mem *>self.mem).ro + atomics.page_at(self.mem, failed.pfn))[:<Py_ssize_t>RECORD_MAX]

    cdef object target(self, lease, bint clear):
        cdef Target target = new_target(lease)
        target.lease._check_filling(self.attachment)
        if clear:
            target.lease._populate()
            clear_long(target.lease._page(), target.lease.length)
        _clear_tail(self.mem, target.lease)
        return target

    cdef int populate(self, lease) except -1:
        (<Lease>lease)._check_filling(self.attachment)
        return (<Lease>lease)._populate()

    cdef int write(self, lease, const char *data) except -1:
        cdef Lease filling = lease
        filling._check_filling(self.attachment)
        filling._populate()
        copy_long(filling._page(), data, filling.length)
        _clear_tail(self.mem, filling)
        return 0

    cdef int deliver(self, lease, result) except -1:
        cdef Lease filling = lease
        filling._check_filling(self.attachment)
        return (<Sink?>result).take(filemap.first_of(self.mem, filling.pfn) << self.shift, filling._page(), filling.length)

    cdef int complete(self, lease, bint mark) except -1:
        cdef Lease filling = lease
        filling._check_filling(self.attachment)
        if mark:
            flags.set_readahead(self.mem, atomics.folio_at(self.mem, filling.pfn))
        with cython.critical_section(self.attachment):
            filling.filling = False
            filemap.finish_fill(self.mem, self.attachment.me, filling.pfn)
            self.attachment.tidy()
        return 0

    cdef void explain(self, lease, bytes reason) noexcept:
        cdef Lease failed = lease
        with cython.critical_section(self.attachment):
            if failed.filling and failed.epoch == self.attachment.epoch:
                memcpy(failed._page(), PyBytes_AS_STRING(reason), PyBytes_GET_SIZE(reason))
                failed.explained = True

    cdef int withdraw(self, lease) except -1:
        (<Lease>lease).release()
        return 0

    cdef object private(self, bytes content):
        cdef Lease lease = new_lease()
        lease.attachment = self.attachment
        lease.epoch = self.attachment.epoch
        lease.private = content
        lease.data = PyBytes_AS_STRING(content)
        lease.length = PyBytes_GET_SIZE(content)
        return lease

    cdef u32 epoch(self) noexcept:
        return self.attachment.epoch

    cdef int count(self, u32 counter, u64 n) except -1:
        self.attachment.count(counter, n)
        return 0

    cdef int request(self, u32 source, u64 ns, u64 length, bint failed) except -1:
        if source < layout.SOURCE_KINDS:  # with tiers, there is one for each of them, and they count for themselves
            self.attachment.request(source, ns, length, failed)
        emit = spans.emit
        if emit is not None:
            emit("fill", self, source, ns, length, failed)
        return 0

    cdef int waited(self, u64 ns) except -1:
        cdef u32 me = self.attachment.number
        with cython.critical_section(self.attachment):
            statistics.record(self.mem, me, layout.STAT_WAITS, ns)
        emit = spans.emit
        if emit is not None:
            emit("wait", self, layout.SOURCE_KINDS, ns, 0, False)
        return 0

    cdef bint reap(self) except -1:
        return self.attachment.reap()[0] > 0

    cdef void _bind(self, u64 ino) noexcept:
        self.ino = ino
        self.head = mapping.head(self.mem, ino)
        self.mark = mapping.mark(self.mem, ino)

    cdef bint _open(self) noexcept:
        """Find or make the object's record. False if the pool has no room for it, even after evicting folios."""
        cdef const char *text = PyBytes_AS_STRING(self.text)
        cdef u32 length = PyBytes_GET_SIZE(self.text)
        cdef u64 ino = filemap.open(self.mem, self.attachment.me, self.digest_lo, self.digest_hi, self.key_digest, self.size,
                                    self.order, self.height, text, self.key_length, length - self.key_length)
        if ino:
            self._bind(ino)
        return ino != 0


cdef void _clear_tail(mem_t mem, Lease lease) noexcept:
    """Zero the bytes after the folio's last one, up to the end of the page: a window maps whole pages."""
    cdef Py_ssize_t page = 1 << atomics.page_shift(mem)
    memset(lease._page() + lease.length, 0, -lease.length & (page - 1))
