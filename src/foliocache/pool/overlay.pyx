"""A lasting private mapping of the segment: pages of objects that may be written to, for one user at a time.

A sample is copied by what collates it, and seldom written to. So a *lent* range is the pool's pages themselves, mapped
privately: the first write to a page copies it, and only this process sees that copy. Its window pins the folios. What was
written is dropped when the window ends, before the folios are unpinned: a page that stayed private would show its old content
to the next window there. The kernel says whether there is such a page (PAGEMAP_SCAN, Linux 6.7). If it does not, nothing is
lent.

To copy what is written page by page takes several times as long as to copy all of it. So after a range was written to, the
next PAUSE ones are not lent, and their users make copies.

``mlockall(MCL_CURRENT)`` copies the whole mapping, from its lowest address on: also what will be lent only later, when the pool
has other content there. So below it is a page of a file of its own, the *guard*: when that has been copied, nothing is lent any
more.

No range is lent twice at a time. Before this process forks, all pages of those that are lent are copied (``private``). The
child never lends from its parent's overlay.
"""
cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64
from posix.mman cimport MAP_ANONYMOUS, MAP_FAILED, MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE
from posix.mman cimport PROT_NONE, PROT_READ, PROT_WRITE, mmap, munmap

import os
import resource

from .attachment cimport Attachment
from ..mm cimport atomics, backing
from ..mm.atomics cimport fc_mem

from .descriptor import open_file
from .private import watch

cdef extern from *:
    """
    #include <stdint.h>
    #include <sys/ioctl.h>
    #include <sys/mman.h>
    #include <sys/syscall.h>
    #include <unistd.h>

    static inline void fc_touch_page(char *at) { __atomic_fetch_or(at, 0, __ATOMIC_RELAXED); }

    /* Maps a page of a new file at an address, privately and without rights, and returns where it is mapped shared, or NULL. */
    static uint64_t *fc_guard(void *at, size_t page)
    {
        int fd = syscall(SYS_memfd_create, "foliocache-guard", 1u); /* MFD_CLOEXEC */
        void *shared = MAP_FAILED;
        if (fd < 0)
            return 0;
        if (ftruncate(fd, page) == 0)
            shared = mmap(0, page, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (shared != MAP_FAILED && mmap(at, page, PROT_NONE, MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED, fd, 0) == MAP_FAILED) {
            munmap(shared, page);
            shared = MAP_FAILED;
        }
        close(fd);
        return shared == MAP_FAILED ? 0 : shared;
    }

    /* Returns 1 if what is written to the shared page can be read from the guard: that has not been copied. */
    static inline int fc_is_seen(const char *guard, uint64_t *shared)
    {
        uint64_t written = __atomic_add_fetch(shared, 1, __ATOMIC_SEQ_CST);
        return __atomic_load_n((const uint64_t *)guard, __ATOMIC_SEQ_CST) >= written;
    }

    /* Of <linux/fs.h> since 6.7. */
    struct fc_pm_scan {
        uint64_t size, flags, start, end, walk_end, vec, vec_len, max_pages;
        uint64_t category_inverted, category_mask, category_anyof_mask, return_mask;
    };
    struct fc_page_region { uint64_t start, end, categories; };
    #define FC_PAGEMAP_SCAN _IOWR('f', 16, struct fc_pm_scan)
    #define FC_PAGE_IS_FILE 4u
    #define FC_PAGE_IS_PRESENT 8u
    #define FC_PAGE_IS_SWAPPED 16u

    /* Returns 0 if no page of a private mapping of a file has been copied, 1 if one has, -1 if the kernel does not say. */
    static int fc_has_copies(int pagemap, char *base, size_t size)
    {
        struct fc_page_region found;
        struct fc_pm_scan scan = {
            .size = sizeof scan, .start = (uintptr_t)base, .end = (uintptr_t)base + size, .vec = (uintptr_t)&found,
            .vec_len = 1, .max_pages = 1, .category_inverted = FC_PAGE_IS_FILE, .category_mask = FC_PAGE_IS_FILE,
            .category_anyof_mask = FC_PAGE_IS_PRESENT | FC_PAGE_IS_SWAPPED, .return_mask = FC_PAGE_IS_FILE,
        };
        int result = ioctl(pagemap, FC_PAGEMAP_SCAN, &scan);
        return result < 0 ? -1 : result > 0;
    }
    """
    void touch_page "fc_touch_page" (char *at) noexcept
    u64 *new_guard "fc_guard" (void *at, size_t page) noexcept
    bint is_seen "fc_is_seen" (const char *guard, u64 *shared) noexcept
    int has_copies "fc_has_copies" (int pagemap, char *base, size_t size) noexcept
    int mprotect(void *base, size_t size, int rights) noexcept
    int munlock(const void *base, size_t size) noexcept
    int madvise(void *base, size_t size, int advice) noexcept
    int MADV_DONTNEED, MADV_DONTDUMP

cdef size_t PAGE = 4096  # bytes of the smallest page of any machine
cdef u64 LENT_MAX = 32 << 20  # bytes in a process: they are pinned
cdef u32 LENT_SHARE = 64  # and at most this part of the pool
cdef u32 PAUSE = 1000  # ranges


@cython.final
@cython.auto_pickle(False)
cdef class Overlay:
    """The overlay of a segment in this process."""
    def __init__(self):
        raise TypeError("an overlay comes from overlay_of()")

    def __reduce__(self):
        raise TypeError("an overlay is mapped into this process, and cannot be copied or pickled")

    def __dealloc__(self):
        if self.guard:
            munmap(self.guard, self.page + self.size)
        if self.shared:
            munmap(self.shared, self.page)

    cdef bint _open(self, Attachment attachment) except -1:
        """Map the segment. Return False if the kernel does not allow that, or does not say which pages have been copied."""
        cdef size_t size = (<const fc_mem *>attachment.mem).size
        cdef size_t page = os.sysconf("SC_PAGE_SIZE")
        cdef void *found
        self.file = open_file("/proc/self/pagemap", os.O_RDONLY, private=True)
        found = mmap(NULL, page + size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0)
        if found == MAP_FAILED:
            return False
        self.guard, self.page, self.size = <char *>found, page, size
        self.base = self.guard + page
        self.mem = attachment.mem
        self.memory = attachment.memory
        found = mmap(
            self.base, size, PROT_NONE, MAP_PRIVATE | MAP_NORESERVE | MAP_FIXED, attachment.segment.fd_to_read, 0
        )
        if found == MAP_FAILED:
            return False
        self.shared = new_guard(self.guard, page)
        if self.shared == NULL:
            return False
        munlock(self.guard, page + size)  # after mlockall: pages that are locked, and may be written to, are copied at once
        madvise(self.guard, page + size, MADV_DONTDUMP)
        if mprotect(self.guard, page + size, PROT_READ | PROT_WRITE):
            return False
        return has_copies(self.file.get(), self.base, PAGE) == 0

    cdef bint has_room(self, u64 size) noexcept:
        """Return True if a range of so many bytes may be lent now."""
        cdef u64 pool = <u64>backing.limit(self.mem) << atomics.page_shift(self.mem)
        with cython.critical_section(self):
            if not self._is_clean():
                return False
            if self.pause:
                self.pause -= 1
                return False
            return self.count < LENT and self.lent + size <= min(LENT_MAX, pool // LENT_SHARE)

    cdef bint _is_clean(self) noexcept:
        """Return True if only pages of lent ranges can be copies. If that has once not been so, drop all of them when no range
        is lent; nothing is lent any more, since ``mlockall`` may still be at work."""
        if not self.is_stained:
            if is_seen(self.guard, self.shared):
                return True
            self.is_stained = True
        if self.count == 0 and not self.is_dropped:
            self.is_dropped = True
            munlock(self.guard, self.page + self.size)
            madvise(self.guard, self.page + self.size, MADV_DONTNEED)
        return False

    cdef char *lend(self, u64 place, u64 size) noexcept:
        """Return the address of a range of the segment, whose folios the caller has pinned until ``end``. NULL if it is lent
        already, or there is no more room."""
        cdef u32 n
        with cython.critical_section(self):
            if not self._is_clean() or self.count == LENT or place + size > self.size:
                return NULL
            for n in range(self.count):
                if self.ranges[n].place == place:
                    return NULL
            self.ranges[self.count] = Range(place, size, False)
            self.count += 1
            self.lent += size
            return self.base + place

    cdef void end(self, u64 place) noexcept:
        """Drop what was written to the range that was lent from a place on."""
        cdef u32 n = 0
        cdef char *base = self.base + place
        with cython.critical_section(self):
            while n < self.count and self.ranges[n].place != place:
                n += 1
            if n == self.count:
                return
            if has_copies(self.file.get(), base, self.ranges[n].size):
                if not self.ranges[n].is_copied:
                    self.pause = PAUSE
                if madvise(base, self.ranges[n].size, MADV_DONTNEED):
                    self.is_stained = True  # the pages are locked
            self.lent -= self.ranges[n].size
            self.count -= 1
            self.ranges[n] = self.ranges[self.count]

    def _copy_all(self):
        """Make a private copy of every page that is lent, without changing its content."""
        cdef u32 n
        cdef u64 at
        with cython.critical_section(self):
            for n in range(self.count):
                self.ranges[n].is_copied = True
                at = 0
                while at < self.ranges[n].size:
                    touch_page(self.base + self.ranges[n].place + at)
                    at += PAGE


cdef Overlay overlay_of(Attachment attachment):
    """Return the overlay of the attachment's segment in this process; None if it cannot have one."""
    with cython.critical_section(attachment):
        if attachment.overlay is None:
            attachment.overlay = _opened(attachment) or False
        return attachment.overlay or None


cdef Overlay _opened(Attachment attachment):
    cdef Overlay overlay = Overlay.__new__(Overlay)
    try:
        with open("/proc/sys/vm/overcommit_memory") as file:
            if file.read().strip() == "2":  # then the whole segment would count as memory that is promised to this process
                return None
        for limit in (resource.RLIMIT_DATA, resource.RLIMIT_AS):  # it would take what is left of them, too
            if resource.getrlimit(limit)[0] != resource.RLIM_INFINITY:
                return None
        if not overlay._open(attachment):
            return None
    except OSError:
        return None
    watch(overlay)
    return overlay
