"""Files that this process has open: closed with their object; private ones also in forked children.

Each step is one call in which no Python runs. So a signal handler that raises cannot leak a descriptor between its opening and
its owner; and if a thread forks, a file that the child must close is either not open yet or recorded.

A forked child shares its parent's *open file descriptions*, and with them their locks, and it keeps a file without a name
alive. So it closes its copies of the private files at once.
"""
from cpython.exc cimport PyErr_CheckSignals
from libc.errno cimport EINTR, errno
from libc.stdint cimport uint32_t as u32

import os

cdef extern from *:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <stdint.h>
    #include <stdio.h>
    #include <unistd.h>
    #include "atomics.h"
    #include "stat.h"

    #ifndef F_OFD_SETLK
    #define F_OFD_SETLK 37
    #endif

    static int fc_same_file(const struct stat *one, const struct stat *other)
    { return S_ISREG(other->st_mode) && one->st_dev == other->st_dev && one->st_ino == other->st_ino; }

    /* Returns another open file description of fd's file, or -1: through /proc, even if the file has no name any more; else by
     * its path, if that leads to the same file. */
    static int fc_reopen(int fd, const char *path, int access)
    {
        const int how = access | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY;
        char place[40];
        struct stat wanted, found;
        int other, saved;
        snprintf(place, sizeof place, "/proc/self/fd/%d", fd);
        other = open(place, access | O_CLOEXEC);
        if (other >= 0)
            return other;
        saved = errno;
        if (fc_stat(fd, "", AT_EMPTY_PATH, &wanted) != 0 || fc_stat(AT_FDCWD, path, AT_SYMLINK_NOFOLLOW, &found) != 0
            || !fc_same_file(&wanted, &found)) {
            errno = saved;
            return -1;
        }
        other = open(path, how);
        if (other >= 0 && (fc_stat(other, "", AT_EMPTY_PATH, &found) != 0 || !fc_same_file(&wanted, &found))) {
            close(other);
            errno = ENOENT;
            return -1;
        }
        return other;
    }

    /* Gives a file without a name one. By its descriptor where the kernel allows that, which needs no /proc. Returns 0, or -1.
    */ static int fc_link(int fd, const char *path) {
        char place[40];
        if (linkat(fd, "", AT_FDCWD, path, AT_EMPTY_PATH) == 0)
            return 0;
        if (errno == EEXIST)
            return -1;
        snprintf(place, sizeof place, "/proc/self/fd/%d", fd);
        return linkat(AT_FDCWD, place, AT_FDCWD, path, AT_SYMLINK_FOLLOW);
    }

    /* Takes or releases an open file description's lock on the bytes of slots. It ends with the description's last descriptor.
    */ static int fc_lock(int fd, int type, uint32_t first, uint32_t count) {
        struct flock lock = { .l_type = (short)type, .l_whence = SEEK_SET, .l_start = FC_LOCK_BYTES + first, .l_len = count };
        return fcntl(fd, F_OFD_SETLK, &lock);
    }
    """
    int O_CLOEXEC, O_RDONLY, O_RDWR, F_RDLCK, F_WRLCK, F_UNLCK
    int c_open "open"(const char *path, int flags, int mode) noexcept
    int c_close "close"(int fd) noexcept
    int fc_reopen(int fd, const char *path, int access) noexcept
    int fc_link(int fd, const char *path) noexcept
    int fc_lock(int fd, int type, u32 first, u32 count) noexcept

cdef u32 forks = 0  # between the process that imported this module and this one
cdef set private_files = set()  # numbers of the open private files


def _after_fork_in_child():
    global forks
    forks += 1
    for number in private_files:
        c_close(number)
    private_files.clear()


os.register_at_fork(after_in_child=_after_fork_in_child)


cdef _error(path):
    cdef int number = errno
    return OSError(number, os.strerror(number), str(path))


cdef class Descriptor:
    """An open file. ``fd`` is its descriptor, or -1 if it has been closed, or is private and was inherited by fork."""
    def __cinit__(self):
        self.number = -1

    def __dealloc__(self):
        self._close()

    def __reduce__(self):
        raise TypeError("an open file cannot be copied or pickled")

    cdef int get(self) noexcept:
        return -1 if self.private and self.forks != forks else self.number

    @property
    def fd(self):
        return self.get()

    def fileno(self):
        return self.get()

    def close(self):
        """Close the file. Closing twice is harmless."""
        self._close()

    cdef _close(self):
        cdef int number = self.get()
        self.number = -1
        if number >= 0:
            if self.private:
                private_files.discard(number)
            c_close(number)

    cdef _own(self, int number, bint private):
        self.number = number
        self.forks = forks
        if private:
            private_files.add(number)
            self.private = True

    def share(self):
        """Make a private file shared: children that are forked from now on keep it open."""
        if self.private and self.get() >= 0:
            private_files.discard(self.number)
            self.private = False

    def link(self, path):
        """Give a file without a name this one. Raises FileExistsError, or another OSError if that is impossible."""
        if fc_link(self.get(), os.fsencode(path)) != 0:
            raise _error(path)

    cdef int lock(self, u32 n) noexcept:
        """Take the lock on slot n's byte. Return 0, or an errno if another open file description has it."""
        return 0 if fc_lock(self.get(), F_WRLCK, n, 1) == 0 else errno

    cdef int lock_shared(self, u32 n) noexcept:
        """As ``lock``, but other open file descriptions may have it shared, too."""
        return 0 if fc_lock(self.get(), F_RDLCK, n, 1) == 0 else errno

    cdef void unlock(self, u32 first, u32 count) noexcept:
        """Release the locks on the bytes of count slots from first on."""
        if count:
            fc_lock(self.get(), F_UNLCK, first, count)


def open_file(path, int flags, int mode=0o600, *, bint private=False):
    """Return a Descriptor of the file at path. It is closed on exec; a private one in forked children as well. Raises
    OSError."""
    cdef bytes name = os.fsencode(path)
    cdef Descriptor file = Descriptor()
    cdef int number = -1
    while number < 0:
        number = c_open(name, flags | O_CLOEXEC, mode)
        if number >= 0:
            file._own(number, private)
        elif errno == EINTR:
            PyErr_CheckSignals()
        else:
            raise _error(path)
    return file


cpdef Descriptor reopen(Descriptor file, object path):
    """Return a private Descriptor with another open file description of file, for reading and writing. path: where the file
    is, or was. Raises OSError."""
    return _reopen(file, path, O_RDWR)


cpdef Descriptor reopen_to_read(Descriptor file, object path):
    """Do what ``reopen`` does, for reading only: through its mappings, no one can write, or remove pages (MADV_REMOVE)."""
    return _reopen(file, path, O_RDONLY)


cdef Descriptor _reopen(Descriptor file, object path, int access):
    cdef bytes name = os.fsencode(path)
    cdef Descriptor other = Descriptor()
    cdef int number = fc_reopen(file.get(), name, access)
    if number < 0:
        raise _error(path)
    other._own(number, True)
    return other
