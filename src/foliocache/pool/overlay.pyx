"""A lasting private mapping of the segment: pages of objects that may be written to, for one user at a time.

A sample is copied by what collates it, and seldom written to. So a *lent* range is the pool's pages themselves, mapped
privately: the first write to a page copies it, and only this process sees that copy. Its window pins the folios. What was
written is dropped when the window ends, before the folios are unpinned: a page that stayed private would show its old content
to the next window there. The kernel says whether there is such a page (PAGEMAP_SCAN, Linux 6.7). If it does not, nothing is
lent.

To copy what is written page by page takes several times as long as to copy all of it. So after a range was written to, the
next PAUSE ones are not lent, and their users make copies.

No range is lent twice at a time. Before this process forks, all pages of those that are lent are copied (``private``). The
child never lends from its parent's overlay.
"""
cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64
from posix.mman cimport MAP_FAILED, MAP_NORESERVE, MAP_PRIVATE, PROT_NONE, PROT_READ, PROT_WRITE, mmap, munmap

import os

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

    static inline void fc_touch_page(char *at) { __atomic_fetch_or(at, 0, __ATOMIC_RELAXED); }

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
        if self.base:
            munmap(self.base, self.size)

    cdef bint _open(self, Attachment attachment) except -1:
        """Map the segment. Return False if the kernel does not allow that, or does not say which pages have been copied."""
        cdef void *found
        cdef size_t size = (<const fc_mem *>attachment.mem).size
        self.file = open_file("/proc/self/pagemap", os.O_RDONLY, private=True)
        found = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_NORESERVE, attachment.segment.fd_to_read, 0)
        if found == MAP_FAILED:
            return False
        self.base = <char *>found
        self.size = size
        self.mem = attachment.mem
        self.memory = attachment.memory
        munlock(self.base, size)  # after mlockall: pages that are locked, and may be written to, are copied at once
        madvise(self.base, size, MADV_DONTDUMP)
        return mprotect(self.base, size, PROT_READ | PROT_WRITE) == 0 and has_copies(self.file.get(), self.base, PAGE) == 0

    cdef bint has_room(self, u64 size) noexcept:
        """Return True if a range of so many bytes may be lent now."""
        cdef u64 pool = <u64>backing.limit(self.mem) << atomics.page_shift(self.mem)
        with cython.critical_section(self):
            if self.pause:
                self.pause -= 1
                return False
            return not self.is_stained and self.count < LENT and self.lent + size <= min(LENT_MAX, pool // LENT_SHARE)

    cdef char *lend(self, u64 place, u64 size) noexcept:
        """Return the address of a range of the segment, whose folios the caller has pinned until ``end``. NULL if it is lent
        already, or there is no more room."""
        cdef u32 n
        with cython.critical_section(self):
            if self.is_stained or self.count == LENT or place + size > self.size:
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
        if not overlay._open(attachment):
            return None
    except OSError:
        return None
    watch(overlay)
    return overlay
