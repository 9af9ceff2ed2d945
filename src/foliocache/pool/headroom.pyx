"""How much memory there is for a pool's pages: looked at before the kernel is asked for some.

At a cgroup's limit ``fallocate`` is no error: the kernel kills a process of that cgroup. So ``atomics.fallocate`` asks here
first, and where there is too little room, that is no memory, as on a full file system.

**Room** is what the tightest of these has left: every cgroup with a limit that this process can see, from its own upwards
(``memory.max``, ``memory.high``; version 1: ``memory.limit_in_bytes``), with the file pages that the kernel can reclaim added
back; and the machine (``MemAvailable``). The file system is not looked at: a full one is an error. Swap is not counted.

**The floor**: of each limit, a share stays free (``FLOOR`` and at least ``LEAST``, or ``min_free`` of ``open``). A look grants
a client at most the floor / (SPARE x clients), for FRESH_NS, and grants nothing where the grants of all clients together would
reach into the floor. So the clients of a pool leave the floor free, however long one is stopped between its look and its call.
The floor is for what else grows meanwhile: the processes' own memory, and page tables for the pool. Strangers in the cgroup,
and other pools, can still race it.

**Swings.** What the processes of a cgroup use besides shared memory and files goes up and down, often faster than a pool can
give back. So at least so much stays free as they have used more in the last SWING_NS to 2 x SWING_NS than they do now, as far
as this process has seen it in its looks; and a quarter of that more, because it does not see all.

**Pressure** (``short``): where others have taken a part of the floor, so much is missing, up to where the pool may take some
again.

**What holds when.** The cgroups are those of the process at the time when it becomes a client, as a forked child does at its
first use; if they cannot be found out then, the parent's. The descriptors are kept, so privileges, roots and descriptors may be
given up afterwards. A client that is moved to another cgroup looks at the old one. A limit that changes is seen; one in a
cgroup that had none, is not. What cannot be read does not limit.
"""
cimport cython
from libc.stdint cimport uint32_t as u32, uint64_t as u64
from libc.stdlib cimport calloc, free, strtoull
from libc.string cimport strlen, strncmp, strstr

from ..mm cimport atomics, client, layout
from ..mm.atomics cimport Memory, mem_t

import os

cdef extern from *:
    """
    #include <fcntl.h>
    #include <stdint.h>
    #include <sys/syscall.h>
    #include <sys/sysinfo.h>
    #include <sys/vfs.h>
    #include <unistd.h>
    #include "stat.h"

    static int fc_open_in(int folder, const char *name) { return openat(folder, name, O_RDONLY | O_CLOEXEC); }

    /* Total and free memory of the machine, and that of buffers. 0 if the kernel does not say. */
    static int fc_sysinfo(uint64_t *total, uint64_t *unused, uint64_t *buffers)
    {
        struct sysinfo found;
        if (sysinfo(&found) != 0)
            return 0;
        *total = (uint64_t)found.totalram * found.mem_unit;
        *unused = (uint64_t)found.freeram * found.mem_unit;
        *buffers = (uint64_t)found.bufferram * found.mem_unit;
        return 1;
    }

    /* How many bytes of a range of a file have memory. Returns 0 if the kernel cannot say: before Linux 6.5, and for a file
     * that is not in shared memory, where a cached page may be that of a hole. */
    static int fc_resident(int fd, uint64_t at, uint64_t n, uint64_t *found)
    {
        struct statfs place;
        struct { uint64_t offset, length; } range = { at, n };
        struct { uint64_t cached, dirty, writeback, evicted, recently_evicted; } told;
        if (fstatfs(fd, &place) != 0 || place.f_type != 0x01021994 /* tmpfs */)
            return 0;
        if (syscall(451, fd, &range, &told, 0) != 0) /* cachestat */
            return 0;
        *found = (told.cached + told.evicted) * (uint64_t)sysconf(_SC_PAGESIZE); /* evicted: swapped */
        return 1;
    }

    /* The bytes of which the file system gives at once: 2 MiB for a tmpfs with huge pages. */
    static uint64_t fc_unit(int fd)
    { struct stat found; return fd >= 0 && fc_stat(fd, "", AT_EMPTY_PATH, &found) == 0 ? (uint64_t)found.st_blksize : 0; }
    """
    int AT_FDCWD, O_PATH, O_DIRECTORY, O_CLOEXEC
    int c_open "open"(const char *path, int flags) noexcept nogil
    int c_close "close"(int fd) noexcept nogil
    int fc_open_in(int folder, const char *name) noexcept nogil
    long pread(int fd, char *to, size_t n, long at) noexcept nogil
    bint fc_sysinfo(u64 *total, u64 *unused, u64 *buffers) noexcept nogil
    u64 fc_unit(int fd) noexcept nogil
    bint fc_resident(int fd, u64 at, u64 n, u64 *found) noexcept nogil

FLOOR = 0.05  # of each limit ...
LEAST = 64 << 20  # ... and at least so many bytes, or a quarter of the limit if that is less

cdef u64 FRESH_NS = 5_000_000
cdef u64 GRANT_MAX = 4 << 20
cdef u64 SWING_NS = 4_000_000_000
cdef u64 COUNT_NS = 100_000_000  # how long a number of clients is believed
cdef u32 GAP = 64  # clean slots after which no client is expected: slots are taken from the first on
cdef u64 UNLIMITED = 1 << 62
cdef u64 LEAST_SHARE = 4  # LEAST is at most 1 / LEAST_SHARE of a limit
cdef u64 SPARE = 4  # the pool takes something only if 1 / SPARE of the floor is free above it
cdef u64 TOLERATED = 8  # nothing is given back before 1 / TOLERATED of the floor is missing
cdef enum:
    LEVELS = 16
    TEXT = 8192

cdef struct Level:  # a cgroup with a limit: descriptors, or -1
    int limit
    int high
    int usage
    int stat
    u64 most  # that its processes have used since ``since``, without shared memory and files ...
    u64 before  # ... and in as long a time before
    u64 since

cdef struct Asked:
    mem_t mem  # or 0
    u64 unit  # the least that is granted
    double share  # of each limit that stays free ...
    u64 floor  # ... and at least so many bytes; as many bytes, if share is 0
    u64 granted  # by the last look, which is believed ...
    u64 until  # ... until then
    u64 left  # of what was granted
    u64 clients
    u64 counted  # when
    u32 nlevels
    Level levels[LEVELS]


@cython.critical_section
def watch(Memory memory not None, folders):
    """Look from now on before a segment gets memory, at the cgroups in these folders. Replaces an earlier watch; the floor
    stays."""
    cdef Asked *asked = _asked(memory.handle, memory.m.fd, folders)
    if memory.m.asked != NULL:
        asked.share = (<Asked *>memory.m.asked).share
        asked.floor = (<Asked *>memory.m.asked).floor
    _forget(&memory.m)
    memory.m.asked = asked
    memory.m.forget = _free
    memory.m.room = _room


@cython.critical_section
def set_floor(Memory memory not None, double share, u64 floor):
    """Keep a share of each limit free, and at least ``floor`` bytes (or a quarter of the limit, if that is less). If the share
    is 0, keep as many bytes."""
    cdef Asked *asked = <Asked *>memory.m.asked
    if asked != NULL:
        asked.share = share
        asked.floor = floor
        asked.until = 0


def renew(Memory memory not None):
    """Look again before the next bytes: in a forked child, whose parent has what was granted."""
    if memory.m.asked != NULL:
        (<Asked *>memory.m.asked).until = 0


@cython.critical_section
def spare(Memory memory not None):
    """Return the bytes above the floor: (of the tightest cgroup, of the machine). None for what has no limit or cannot be
    read."""
    cdef Asked *asked = <Asked *>memory.m.asked
    return (None, None) if asked == NULL else _spare(asked)


@cython.critical_section
def short(Memory memory not None):
    """Return (bytes that should be given back now, bytes that may be taken by anyone before something should be). The first is
    0 as long as the floor is free, or only a small part of it is missing. (0, None) if nothing has a limit."""
    cdef Asked *asked = <Asked *>memory.m.asked
    cdef u64 missing = 0, slack = UNLIMITED
    if asked != NULL:
        _short(asked, &missing, &slack)
    return missing, None if slack == UNLIMITED else slack


def spare_now(folders):
    """Return the bytes that a process may take at this moment, with no floor, in the cgroups in these folders; None if that
    cannot be read."""
    cdef Asked *asked = _asked(0, -1, folders)
    asked.share = 0
    asked.floor = 0
    try:
        return min([room for room in _spare(asked) if room is not None], default=None)
    finally:
        _free(asked)


def resident(int fd, u64 at, u64 n):
    """Return how many bytes of n from ``at`` on a file has memory for; None if the kernel cannot say (before Linux
    6.5, or not in shared memory)."""
    cdef u64 found = 0
    return found if fc_resident(fd, at, n, &found) else None


def unit(int fd):
    """Return the bytes of which a file gets memory at once."""
    return fc_unit(fd)


cdef Asked *_asked(mem_t mem, int fd, folders) except NULL:
    cdef Asked *asked
    cdef u32 shift
    names = [os.fsencode(folder) for folder in folders]
    asked = <Asked *>calloc(1, sizeof(Asked))
    if asked == NULL:
        raise MemoryError
    asked.mem = mem
    asked.share = FLOOR
    asked.floor = LEAST
    shift = max(atomics.chunk_shift(mem), atomics.page_shift(mem)) if mem else layout.CHUNK_SHIFT
    asked.unit = max(fc_unit(fd), <u64>1 << shift)
    asked.clients = 1
    for name in names:
        _open_level(asked, name)
    return asked


cdef _spare(Asked *asked):
    cdef u64 limit = 0, room = 0, shared = 0, swing = 0
    cdef u32 n
    tightest = None
    machine = None
    _count(asked, atomics.now_ns())
    for n in range(asked.nlevels):
        if _measure(&asked.levels[n], 0, &limit, &room, &shared, &swing):
            found = _above(asked, limit, room)
            tightest = found if tightest is None else min(found, tightest)
    if _machine(&limit, &room, 1):
        machine = _above(asked, limit, room)
    return tightest, machine


cdef u64 _above(Asked *asked, u64 limit, u64 room) noexcept nogil:
    cdef u64 need = _need(asked, limit)
    return room - need if room > need else 0


cdef void _forget(atomics.fc_mem *m) noexcept nogil:
    m.room = NULL
    if m.asked != NULL:
        _free(m.asked)
    m.asked = NULL


cdef void _free(void *asked) noexcept nogil:
    cdef u32 n
    for n in range((<Asked *>asked).nlevels):
        _close_level(&(<Asked *>asked).levels[n])
    free(asked)


cdef bint _room(void *asked, u64 n) noexcept nogil:
    """True if n bytes may be taken now. If not, fewer may be."""
    cdef Asked *a = <Asked *>asked
    cdef u64 now = atomics.now_ns()
    n = max(n, a.unit)
    if now >= a.until or a.left < n <= a.granted:
        a.left = a.granted = _look(a, now)
        a.until = now + FRESH_NS
    if a.left < n:
        return False
    a.left -= n
    return True


cdef u64 _look(Asked *asked, u64 now) noexcept nogil:
    """Return how many bytes may be taken before the next look."""
    cdef u64 limit = 0, room = 0, shared = 0, swing = 0, grant = <u64>-1
    cdef u32 n
    _count(asked, now)
    for n in range(asked.nlevels):
        if _measure(&asked.levels[n], now, &limit, &room, &shared, &swing):
            grant = min(grant, _grant(asked, limit, room, swing))
    if grant and _machine(&limit, &room, 0):
        if _grant(asked, limit, room, 0) == 0:
            _machine(&limit, &room, 1)
        grant = min(grant, _grant(asked, limit, room, 0))
    return grant


cdef u64 _need(Asked *asked, u64 limit) noexcept nogil:
    """Return how much of a limit stays free."""
    cdef u64 floor = asked.floor
    if asked.share > 0:
        floor = max(min(floor, limit // LEAST_SHARE), <u64>(asked.share * <double>limit))
    return max(floor, 2 * asked.clients * asked.unit)


cdef u64 _grant(Asked *asked, u64 limit, u64 room, u64 swing) noexcept nogil:
    """Return how many bytes one of the clients is granted, where there is room; 0 if there is too little."""
    cdef u64 need = max(_need(asked, limit), swing)
    cdef u64 each = need // (SPARE * asked.clients) // asked.unit * asked.unit
    if room < need + max(need // SPARE, asked.clients * asked.unit):
        return 0
    return max(asked.unit, min(each, GRANT_MAX))


cdef void _short(Asked *asked, u64 *missing, u64 *slack) noexcept nogil:
    """Find what ``short`` returns."""
    cdef u64 limit = 0, room = 0, shared = 0, swing = 0, now = atomics.now_ns()
    cdef u32 n
    _count(asked, now)
    for n in range(asked.nlevels):
        if _measure(&asked.levels[n], now, &limit, &room, &shared, &swing):
            _missing(asked, limit, room, swing, shared, missing, slack)
    if _machine(&limit, &room, 1):
        _missing(asked, limit, room, 0, UNLIMITED, missing, slack)


cdef void _missing(Asked *asked, u64 limit, u64 room, u64 swing, u64 most, u64 *missing, u64 *slack) noexcept nogil:
    """Add one limit to what is missing, of which at most ``most`` can be given back, and to the slack."""
    cdef u64 need = max(_need(asked, limit), swing)
    cdef u64 bound = need - need // TOLERATED
    slack[0] = min(slack[0], room - bound if room > bound else 0)
    if room < bound:
        missing[0] = max(missing[0], min(need + need // SPARE - room, most))


cdef void _count(Asked *asked, u64 now) noexcept nogil:
    """Count the clients."""
    cdef u32 n, gap = 0
    if asked.mem == 0 or (asked.counted and now - asked.counted < COUNT_NS):
        return
    asked.counted = now
    asked.clients = 1  # one more, which attaches at this moment
    for n in range(atomics.nclients(asked.mem)):
        if client.state(asked.mem, n) != layout.SLOT_CLEAN:
            asked.clients += 1
            gap = 0
        else:
            gap += 1
            if gap == GAP:
                break


cdef void _open_level(Asked *asked, const char *place) noexcept nogil:
    """Keep the files of a cgroup that has a limit."""
    cdef Level *level = &asked.levels[asked.nlevels]
    cdef u64 limit = 0, usage = 0
    cdef int folder
    if asked.nlevels == LEVELS:
        return
    folder = c_open(place, O_PATH | O_DIRECTORY | O_CLOEXEC)
    if folder < 0:
        return
    level.limit = fc_open_in(folder, b"memory.max")
    level.high = fc_open_in(folder, b"memory.high")
    level.usage = fc_open_in(folder, b"memory.current")
    if level.usage < 0:
        level.limit = fc_open_in(folder, b"memory.limit_in_bytes")
        level.usage = fc_open_in(folder, b"memory.usage_in_bytes")
    level.stat = fc_open_in(folder, b"memory.stat")
    c_close(folder)
    if _limit(level, &limit, &usage):
        asked.nlevels += 1
    else:
        _close_level(level)


cdef void _close_level(Level *level) noexcept nogil:
    c_close(level.limit)  # -1 is harmless
    c_close(level.high)
    c_close(level.usage)
    c_close(level.stat)


cdef bint _measure(Level *level, u64 now, u64 *limit, u64 *room, u64 *shared, u64 *swing) noexcept nogil:
    """Find the limit of a cgroup; what is left of it, where file pages that the kernel takes back before it kills are as good
    as free; how much shared memory is charged to it, of which alone a pool can give back; and how much more than now its
    processes have used lately (0, without ``now``). False if the cgroup has no limit, or cannot be read.
    """
    cdef char[TEXT] text
    cdef u64 usage = 0, clean = 0, others
    if not _limit(level, limit, &usage):
        return False
    shared[0] = UNLIMITED
    if _read(level.stat, text):
        clean = _clean(text)
        shared[0] = _shared(text)
    usage -= min(usage, clean)
    others = usage - min(usage, shared[0])
    swing[0] = (_most(level, others, now) - others) // 4 * 5 if now else 0
    room[0] = limit[0] - usage if limit[0] > usage else 0
    return True


cdef u64 _most(Level *level, u64 others, u64 now) noexcept nogil:
    """Return the most that the processes of a cgroup have used lately, as this process has seen it, and now."""
    if now - level.since >= SWING_NS:
        level.before = level.most if now - level.since < 2 * SWING_NS else 0
        level.most = 0
        level.since = now
    level.most = max(level.most, others)
    return max(level.most, level.before)


cdef bint _limit(Level *level, u64 *limit, u64 *usage) noexcept nogil:
    """Find the limit of a cgroup, and its use. False if it has none, or cannot be read."""
    cdef u64 high = UNLIMITED
    limit[0] = UNLIMITED
    _number(level.limit, limit)
    _number(level.high, &high)
    limit[0] = min(limit[0], high)
    return limit[0] < UNLIMITED and _number(level.usage, usage)


cdef u64 _shared(const char *text) noexcept nogil:
    """Return the bytes of shared memory in a cgroup's memory.stat."""
    if strstr(text, b"total_shmem ") != NULL:  # version 1, where the others are without the cgroups below
        return _field(text, b"total_shmem ")
    return _field(text, b"shmem ") if strstr(text, b"shmem ") != NULL else UNLIMITED


cdef u64 _clean(const char *text) noexcept nogil:
    """Return the bytes of file pages in a cgroup's memory.stat that are clean, and on its lists."""
    cdef u64 clean, dirty
    if strstr(text, b"total_active_file ") != NULL:
        clean = _field(text, b"total_active_file ") + _field(text, b"total_inactive_file ")
        dirty = _field(text, b"total_dirty ") + _field(text, b"total_writeback ")
    else:
        clean = _field(text, b"active_file ") + _field(text, b"inactive_file ")
        dirty = _field(text, b"file_dirty ") + _field(text, b"file_writeback ")
    return clean - dirty if clean > dirty else 0


cdef bint _machine(u64 *total, u64 *room, bint exactly) noexcept nogil:
    """Find the memory of the machine, and what is free; ``exactly``: with what the kernel can reclaim. False if it does not
    say."""
    cdef char[TEXT] text
    cdef u64 buffers = 0
    cdef int fd
    if not fc_sysinfo(total, room, &buffers):
        return False
    if exactly:
        room[0] += buffers
        fd = fc_open_in(AT_FDCWD, b"/proc/meminfo")
        if _read(fd, text) and strstr(text, b"MemAvailable:") != NULL:
            room[0] = _field(text, b"MemAvailable:") << 10
        c_close(fd)
    return True


cdef bint _number(int fd, u64 *found) noexcept nogil:
    """Read the number in a file. False if there is none, as in "max"."""
    cdef char[TEXT] text
    if not _read(fd, text) or not c"0" <= text[0] <= c"9":
        return False
    found[0] = strtoull(text, NULL, 10)
    return True


cdef bint _read(int fd, char *text) noexcept nogil:
    cdef long n = pread(fd, text, TEXT - 1, 0) if fd >= 0 else -1
    text[max(n, 0)] = 0
    return n > 0


cdef u64 _field(const char *text, const char *name) noexcept nogil:
    """Return the number after a name at the beginning of a line; 0 if there is none."""
    cdef const char *at = text
    while at != NULL:
        if strncmp(at, name, strlen(name)) == 0:
            return strtoull(at + strlen(name), NULL, 10)
        at = strstr(at, b"\n")
        if at != NULL:
            at += 1
    return 0
