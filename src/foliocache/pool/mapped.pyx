"""Mappings of a pool's file, at addresses where the kernel can put huge pages.

``mmap.mmap`` leaves the address to the kernel, which aligns it only if the file system gives huge pages by itself. In a mapping
that is not aligned as the file is, a huge page is mapped as 512 small ones, and ``MADV_COLLAPSE`` makes none.
"""
cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from libc.errno cimport errno

import os

cdef extern from *:
    """
    #include <errno.h>
    #include <stdint.h>
    #include <sys/mman.h>
    #include "stat.h"

    #define FC_HUGE_PAGE ((size_t)2 << 20)
    #ifndef MADV_COLLAPSE
    #define MADV_COLLAPSE 25
    #endif

    /* As mmap, but maps none of the pages, even if the process has asked for that (MCL_FUTURE): the file would get memory for
     * all of them. What is not accessible is not populated, and what is not locked is not when it becomes accessible. */
    static void *fc_map_at(void *at, size_t size, int prot, int flags, int fd)
    {
        void *found = mmap(at, size, PROT_NONE, flags, fd, 0);
        if (found == MAP_FAILED)
            return found;
        munlock(found, size);
        if (mprotect(found, size, prot) == 0)
            return found;
        int saved = errno;
        if (at == NULL)
            munmap(found, size);
        errno = saved;
        return MAP_FAILED;
    }

    /* Maps a file at a multiple of a huge page, or anywhere if there is no address space to choose. No other thread gets an
     * address in between: the file takes the place of a reservation. Returns MAP_FAILED if it cannot be mapped. */
    static void *fc_map(int fd, size_t size, int prot)
    {
        char *kept = mmap(NULL, size + FC_HUGE_PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (kept == MAP_FAILED)
            return fc_map_at(NULL, size, prot, MAP_SHARED, fd);
        char *at = (char *)(((uintptr_t)kept + FC_HUGE_PAGE - 1) & ~(uintptr_t)(FC_HUGE_PAGE - 1));
        if (fc_map_at(at, size, prot, MAP_SHARED | MAP_FIXED, fd) == MAP_FAILED) {
            int saved = errno;
            munmap(kept, size + FC_HUGE_PAGE);
            errno = saved;
            return MAP_FAILED;
        }
        const size_t page = (size_t)sysconf(_SC_PAGESIZE), end = (size + page - 1) & ~(page - 1);
        if (at > kept)
            munmap(kept, (size_t)(at - kept));
        munmap(at + end, (size_t)(kept + size + FC_HUGE_PAGE - (at + end)));
        return at;
    }

    static int64_t fc_size_of(int fd)
    { struct stat found; return fc_stat(fd, "", AT_EMPTY_PATH, &found) == 0 ? (int64_t)found.st_size : -1; }
    """
    void *MAP_FAILED
    int PROT_READ, PROT_WRITE
    int MADV_COLLAPSE
    void *fc_map(int fd, size_t size, int prot) noexcept
    long fc_size_of(int fd) noexcept
    int munmap(void *at, size_t size) noexcept
    int madvise(void *at, size_t size, int advice) noexcept


@cython.final
@cython.auto_pickle(False)
cdef class Mapped:
    """The first ``size`` bytes of a file, mapped as long as this object or a buffer of it lives.

    Raises OSError, and ValueError if the file is shorter.
    """
    cdef void *at
    cdef Py_ssize_t size
    cdef bint writable

    def __cinit__(self, int fd, Py_ssize_t size, bint writable):
        cdef long found = fc_size_of(fd)
        if found < 0:
            raise OSError(errno, os.strerror(errno))
        if not 0 < size <= found:
            raise ValueError(f"a file of {found} bytes has no {size} to map")
        cdef void *at = fc_map(fd, size, PROT_READ | PROT_WRITE if writable else PROT_READ)
        if at == MAP_FAILED:
            raise OSError(errno, os.strerror(errno))
        self.at = at
        self.size = size
        self.writable = writable

    def __dealloc__(self):
        if self.at != NULL:
            munmap(self.at, self.size)

    def __reduce__(self):
        raise TypeError("a mapping belongs to one process and cannot be copied or pickled")

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.at, self.size, not self.writable, flags)

    def __len__(self):
        return self.size

    def madvise(self, int advice, Py_ssize_t begin):
        """Tell the kernel about the bytes from ``begin`` on. Raises OSError."""
        if not 0 <= begin <= self.size:
            raise ValueError(f"{begin} is not in {self.size} bytes")
        if madvise(<char *>self.at + begin, self.size - begin, advice) != 0:
            raise OSError(errno, os.strerror(errno))


def can_collapse():
    """Return True if the kernel makes huge pages of small ones when asked (``MADV_COLLAPSE``: Linux 6.1)."""
    return madvise(NULL, 0, MADV_COLLAPSE) == 0
