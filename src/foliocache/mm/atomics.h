/* The compiled implementation of the facade `foliocache.mm.atomics`: C11 atomics over one mapped segment.
 *
 * Every function takes `mem`, the address of a process-private `fc_mem`, and a byte offset into the segment. The memory order
 * is part of the name. The compiler built-ins are used instead of <stdatomic.h> because the words are in raw shared memory,
 * which has no _Atomic type. The model checker has a second implementation of the same names, foliocache/check/facade_model.py;
 * tests/check/test_facade.py compares the two lists.
 */
#ifndef FOLIOCACHE_ATOMICS_H
#define FOLIOCACHE_ATOMICS_H

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/falloc.h>
#include <linux/futex.h>
#include <linux/membarrier.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "layout.h"

/* What one process knows of a segment that it has mapped. This is private memory, so no other process can change the geometry
 * that the bounds checks rely on. */
typedef struct {
    char *base;           /* the whole segment, read-write */
    const char *ro;       /* the whole segment again, read-only: users' buffers point here */
    uint64_t size;        /* bytes mapped */
    uint64_t memmap;      /* offset of the folio table */
    uint64_t data;        /* offset of page 0 */
    uint64_t clients;     /* offset of the client table */
    uint64_t buckets;     /* offset of the mapping table's buckets */
    uint64_t ghosts;      /* offset of the ghost table of lru */
    uint64_t names;       /* offset of the name table's index */
    uint64_t backed;      /* offset of the marks of what has memory */
    uint32_t npages;
    uint32_t page_shift;
    uint32_t chunk_shift; /* log2 of the bytes that get memory together, or of a page if that is larger */
    uint32_t nclients;
    uint32_t nbuckets;    /* a power of two */
    uint32_t nghosts;     /* a multiple of GHOST_WAYS */
    uint32_t nnames;      /* a multiple of NAME_WAYS */
    int fd;               /* the segment's file, to ask which clients are alive; -1: every client counts as alive */
    uint32_t stalled;     /* number + 1 of the client that held a lock when this process was refused it, or 0 ... */
    uint32_t stalled_at;  /* ... and that client's CLIENT_OP_SEQ at the time */
    uint32_t populate;    /* memory comes in huge pages only through the mapping: FC_MAP_HUGE, FC_COLLAPSE (fc_fallocate); or 0 */
    uint32_t waits;       /* chunks that fc_collapse leaves out before it tries again ... */
    uint32_t waited;      /* ... and how many those were the last time */
    uint32_t fenced;      /* membarrier(2) is not available: every operation begins with a fence instead */
    int (*room)(void *asked, uint64_t n); /* may n more bytes be taken now? NULL: always (pool/headroom.pyx) */
    void (*forget)(void *asked);          /* frees `asked` */
    void *asked;
} fc_mem;

typedef uintptr_t mem_t;

#define FC_MAP_HUGE 1 /* to a mapping that asks for them: pool/segment.py */
#define FC_COLLAPSE 2 /* when asked to make one of what is there */
#define FC_POPULATE_WRITE 23 /* MADV_POPULATE_WRITE, which older headers lack */
#define FC_MADV_COLLAPSE 25
#define FC_COLLAPSE_WAIT 63u /* the most chunks that are left out */
#define FC_COLLAPSE_CPU_NS 4000000u /* what one may take: three times what 2 MiB in small pages take */
#define FC_COLLAPSE_WALL_NS 50000000u
#ifndef F_OFD_GETLK
#define F_OFD_GETLK 36
#endif

#define FC_MEM(mem) ((const fc_mem *)(mem))
#define FC_P32(mem, off) ((uint32_t *)(void *)(FC_MEM(mem)->base + (off)))
#define FC_P64(mem, off) ((uint64_t *)(void *)(FC_MEM(mem)->base + (off)))

/* Geometry: trusted, because it is private memory. */
#define FC_GEOMETRY(name, type) static inline type fc_##name(mem_t mem) { return FC_MEM(mem)->name; }
FC_GEOMETRY(memmap, uint64_t)
FC_GEOMETRY(data, uint64_t)
FC_GEOMETRY(clients, uint64_t)
FC_GEOMETRY(buckets, uint64_t)
FC_GEOMETRY(ghosts, uint64_t)
FC_GEOMETRY(names, uint64_t)
FC_GEOMETRY(backed, uint64_t)
FC_GEOMETRY(page_shift, uint32_t)
FC_GEOMETRY(chunk_shift, uint32_t)
FC_GEOMETRY(populate, uint32_t)
FC_GEOMETRY(nbuckets, uint32_t)
FC_GEOMETRY(nghosts, uint32_t)
FC_GEOMETRY(nnames, uint32_t)

/* How many pages the segment's file and tables are made for; and how many of those have descriptors by now. The second number is
 * in shared memory, and never counts beyond the first. Acquire pairs with the release in page_alloc._describe: a client that sees
 * the number sees the descriptors frozen. */
static inline uint32_t fc_npages_max(mem_t mem) { return FC_MEM(mem)->npages; }
static inline uint32_t fc_npages(mem_t mem)
{
    uint32_t described = __atomic_load_n(FC_P32(mem, FC_PAGES_DESCRIBED), __ATOMIC_ACQUIRE);
    return described < FC_MEM(mem)->npages ? described : FC_MEM(mem)->npages;
}

/* How many client slots the table is made for; and how many of those have memory by now, as above. Acquire pairs with the release
 * in backing.back_slot: a client that sees the number reads no hole. */
static inline uint32_t fc_nclients_max(mem_t mem) { return FC_MEM(mem)->nclients; }
static inline uint32_t fc_nclients(mem_t mem)
{
    uint32_t backed = __atomic_load_n(FC_P32(mem, FC_SLOTS_BACKED), __ATOMIC_ACQUIRE);
    return backed < FC_MEM(mem)->nclients ? backed : FC_MEM(mem)->nclients;
}

/* Offsets of a page's descriptor and of its data. The caller has checked pfn < npages. */
static inline uint64_t fc_folio_at(mem_t mem, uint32_t pfn) { return FC_MEM(mem)->memmap + (uint64_t)pfn * FC_FOLIO_SIZE; }
static inline uint64_t fc_page_at(mem_t mem, uint32_t pfn)
{
    return FC_MEM(mem)->data + ((uint64_t)pfn << FC_MEM(mem)->page_shift);
}

#define FC_LOAD(name, type, ptr, order)                                                         \
    static inline type fc_##name(mem_t mem, uint64_t off) { return __atomic_load_n(ptr(mem, off), order); }
#define FC_STORE(name, type, ptr, order)                                                        \
    static inline void fc_##name(mem_t mem, uint64_t off, type v) { __atomic_store_n(ptr(mem, off), v, order); }
#define FC_RMW(name, op, order)                                                                 \
    static inline uint32_t fc_##name(mem_t mem, uint64_t off, uint32_t v)                       \
    { return op(FC_P32(mem, off), v, order); }
/* Returns the value found: the exchange took place if and only if that equals `old`. */
#define FC_CMPXCHG(name, order, failure)                                                        \
    static inline uint32_t fc_##name(mem_t mem, uint64_t off, uint32_t old, uint32_t v)         \
    { __atomic_compare_exchange_n(FC_P32(mem, off), &old, v, 0, order, failure); return old; }
#define FC_FENCE(name, order) static inline void fc_##name(void) { __atomic_thread_fence(order); }

FC_LOAD(load_relaxed, uint32_t, FC_P32, __ATOMIC_RELAXED)
FC_LOAD(load_acquire, uint32_t, FC_P32, __ATOMIC_ACQUIRE)
FC_LOAD(load_seq_cst, uint32_t, FC_P32, __ATOMIC_SEQ_CST)
FC_STORE(store_relaxed, uint32_t, FC_P32, __ATOMIC_RELAXED)
FC_STORE(store_release, uint32_t, FC_P32, __ATOMIC_RELEASE)
FC_STORE(store_seq_cst, uint32_t, FC_P32, __ATOMIC_SEQ_CST)
FC_LOAD(load_relaxed64, uint64_t, FC_P64, __ATOMIC_RELAXED)
FC_LOAD(load_acquire64, uint64_t, FC_P64, __ATOMIC_ACQUIRE)
FC_STORE(store_relaxed64, uint64_t, FC_P64, __ATOMIC_RELAXED)
FC_STORE(store_release64, uint64_t, FC_P64, __ATOMIC_RELEASE)

#define FC_RMW_ORDERS(name, op)                  \
    FC_RMW(name##_relaxed, op, __ATOMIC_RELAXED) \
    FC_RMW(name##_acquire, op, __ATOMIC_ACQUIRE) \
    FC_RMW(name##_release, op, __ATOMIC_RELEASE) \
    FC_RMW(name##_acq_rel, op, __ATOMIC_ACQ_REL) \
    FC_RMW(name##_seq_cst, op, __ATOMIC_SEQ_CST)

FC_RMW_ORDERS(fetch_add, __atomic_fetch_add)
FC_RMW_ORDERS(fetch_sub, __atomic_fetch_sub)
FC_RMW_ORDERS(fetch_or, __atomic_fetch_or)
FC_RMW_ORDERS(fetch_and, __atomic_fetch_and)
FC_RMW_ORDERS(exchange, __atomic_exchange_n)

FC_CMPXCHG(cmpxchg_relaxed, __ATOMIC_RELAXED, __ATOMIC_RELAXED)
FC_CMPXCHG(cmpxchg_acquire, __ATOMIC_ACQUIRE, __ATOMIC_ACQUIRE)
FC_CMPXCHG(cmpxchg_release, __ATOMIC_RELEASE, __ATOMIC_RELAXED)
FC_CMPXCHG(cmpxchg_acq_rel, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)
FC_CMPXCHG(cmpxchg_seq_cst, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)

FC_FENCE(fence_acquire, __ATOMIC_ACQUIRE)
FC_FENCE(fence_release, __ATOMIC_RELEASE)
FC_FENCE(fence_acq_rel, __ATOMIC_ACQ_REL)
FC_FENCE(fence_seq_cst, __ATOMIC_SEQ_CST)

/* Plain accesses: the protocol orders them before and after every access by another thread. The checker reports a race as a
 * failure. */
static inline uint32_t fc_read32(mem_t mem, uint64_t off) { return *FC_P32(mem, off); }
static inline void fc_write32(mem_t mem, uint64_t off, uint32_t v) { *FC_P32(mem, off) = v; }
static inline uint64_t fc_read64(mem_t mem, uint64_t off) { return *FC_P64(mem, off); }
static inline void fc_write64(mem_t mem, uint64_t off, uint64_t v) { *FC_P64(mem, off) = v; }

/* A store that the compiler does not reorder. A process that reads the word after this one has been killed sees everything that
 * this process did up to some instruction and nothing after it, so program order is what matters. */
static inline void fc_record32(mem_t mem, uint64_t off, uint32_t v)
{
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
    __atomic_store_n(FC_P32(mem, off), v, __ATOMIC_RELAXED);
    __atomic_signal_fence(__ATOMIC_SEQ_CST);
}

/* The same for the words of this client's own slot, which no other client writes while it lives; and a load of them. They have
 * names of their own because the checker need not explore them in a program in which no process dies. */
static inline void fc_write_once(mem_t mem, uint64_t off, uint32_t v) { fc_record32(mem, off, v); }
static inline uint32_t fc_read_once(mem_t mem, uint64_t off) { return __atomic_load_n(FC_P32(mem, off), __ATOMIC_RELAXED); }

/* Follows an operation's first store to its client slot. Pairs with fc_asymmetric_fence_heavy; with membarrier(2), this side is
 * a compiler barrier only. */
static inline void fc_asymmetric_fence_light(mem_t mem)
{
    if (FC_MEM(mem)->fenced)
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
    else
        __atomic_signal_fence(__ATOMIC_SEQ_CST);
}

/* A full fence in every process that uses the segment, at some point between call and return. */
static inline void fc_asymmetric_fence_heavy(mem_t mem)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (!FC_MEM(mem)->fenced)
        syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/* membarrier(2) reaches only processes that have registered for it. Returns 0, or an errno. */
static inline int fc_membarrier_register(void)
{
    return syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_GLOBAL_EXPEDITED, 0, 0) == 0 ? 0 : errno;
}

/* Returns 1 if a process holds the lock on this client's byte of the file: the kernel drops that lock after the process's last
 * instruction, not before. Returns 1 as well if the kernel cannot be asked. */
static inline int fc_client_alive(mem_t mem, uint32_t client)
{
    struct flock asked = { .l_type = F_WRLCK, .l_whence = SEEK_SET, .l_start = FC_LOCK_BYTES + client, .l_len = 1 };
    if (FC_MEM(mem)->fd < 0 || fcntl(FC_MEM(mem)->fd, F_OFD_GETLK, &asked) != 0)
        return 1;
    return asked.l_type != F_UNLCK;
}

/* Returns 1 if this process was refused a lock that the client held and the client has made no progress since. The record is
 * private memory, so no other process can make this one give up. */
static inline int fc_is_stalled(mem_t mem, uint32_t client, uint64_t busy)
{
    return FC_MEM(mem)->stalled == client + 1 && FC_MEM(mem)->stalled_at == __atomic_load_n(FC_P32(mem, busy), __ATOMIC_RELAXED);
}

static inline uint32_t fc_stalled_by(mem_t mem) { return FC_MEM(mem)->stalled - 1; }

static inline void fc_set_stalled(mem_t mem, uint32_t client, uint64_t busy)
{
    fc_mem *m = (fc_mem *)mem;
    m->stalled_at = __atomic_load_n(FC_P32(mem, busy), __ATOMIC_RELAXED);
    m->stalled = client + 1;
}

/* Plain bytes: a mapping's key and version, for people. */
static inline void fc_write_bytes(mem_t mem, uint64_t off, const char *bytes, uint32_t n)
{
    memcpy(FC_MEM(mem)->base + off, bytes, n);
}

/* n bytes, a multiple of 8, into the segment or out of it, in atomic words of 64 bits: for what a reader may copy while it changes, and
 * then finds out by a sequence word. */
static inline void fc_copy_in_relaxed(mem_t mem, uint64_t off, const char *bytes, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += 8) {
        uint64_t word;
        memcpy(&word, bytes + i, 8);
        __atomic_store_n(FC_P64(mem, off + i), word, __ATOMIC_RELAXED);
    }
}

static inline void fc_copy_out_relaxed(mem_t mem, uint64_t off, char *bytes, uint32_t n)
{
    for (uint32_t i = 0; i < n; i += 8) {
        uint64_t word = __atomic_load_n(FC_P64(mem, off + i), __ATOMIC_RELAXED);
        memcpy(bytes + i, &word, 8);
    }
}

/* Adds n to a statistics counter. Each client has its own counters, so no read-modify-write is needed; threads of one client
 * may lose an increment. */
static inline void fc_count64(mem_t mem, uint64_t off, uint64_t n)
{ __atomic_store_n(FC_P64(mem, off), __atomic_load_n(FC_P64(mem, off), __ATOMIC_RELAXED) + n, __ATOMIC_RELAXED); }

static inline uint64_t fc_clock_ns(clockid_t clock)
{
    struct timespec ts;
    return clock_gettime(clock, &ts) == 0 ? (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec : 0;
}

/* Gives chunks huge pages, as far as the kernel has some, on a file system that gives none by itself. It makes one where there
 * is a page already, and nobody else is in the chunk. Where it finds no 2 MiB in one piece, or takes long to make one, it is not
 * asked for the next chunks, for twice as many each time: on a machine whose memory is in small pieces, it may move
 * pages for milliseconds, and in vain. In a cgroup at its limit it refuses so many at once, and kills nobody. Threads may lose a count. */
static inline void fc_collapse(mem_t mem, uint64_t off, uint64_t n)
{
    fc_mem *m = (fc_mem *)mem;
    const uint64_t chunk = (uint64_t)1 << m->chunk_shift;
    for (uint64_t at = off; at + chunk <= off + n; at += chunk) {
        const uint32_t waits = __atomic_load_n(&m->waits, __ATOMIC_RELAXED), waited = __atomic_load_n(&m->waited, __ATOMIC_RELAXED);
        if (waits) {
            __atomic_store_n(&m->waits, waits - 1, __ATOMIC_RELAXED);
            continue;
        }
        const uint64_t wall = fc_clock_ns(CLOCK_MONOTONIC), cpu = fc_clock_ns(CLOCK_THREAD_CPUTIME_ID);
        if (syscall(SYS_fallocate, m->fd, 0, (long)at, 1L) != 0)
            return; /* no memory, or a signal: the call for all of it says so */
        const int made = madvise(m->base + at, chunk, FC_MADV_COLLAPSE) == 0;
        const int slow = fc_clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu > FC_COLLAPSE_CPU_NS
            || fc_clock_ns(CLOCK_MONOTONIC) - wall > FC_COLLAPSE_WALL_NS;
        const uint32_t next = made && !slow ? 0 : 2 * waited + 1 < FC_COLLAPSE_WAIT ? 2 * waited + 1 : FC_COLLAPSE_WAIT;
        __atomic_store_n(&m->waited, next, __ATOMIC_RELAXED);
        __atomic_store_n(&m->waits, next, __ATOMIC_RELAXED);
    }
}

/* Gives n bytes of the segment's file memory, if they have none; plain memory always has. Returns 0, or an errno: ENOMEM where
 * `room` says so, because at a cgroup's limit the kernel would kill; it is not asked about a client slot, which is less than a
 * process takes to attach. The kernel gives up at a signal and undoes what it has done.
 *
 * Where huge pages come only through a mapping (`populate`), a piece of whole chunks gets them there first. What that brought, the
 * kernel is asked afterwards: a full file system is no SIGBUS here, but an error of either call. Some of it may have come then. */
static inline int fc_fallocate(mem_t mem, uint64_t off, uint64_t n)
{
    if (off >= FC_MEM(mem)->size || FC_MEM(mem)->fd < 0)
        return 0;
    if (n > FC_MEM(mem)->size - off)
        n = FC_MEM(mem)->size - off;
    if (n > FC_CLIENT_SIZE && FC_MEM(mem)->room && !FC_MEM(mem)->room(FC_MEM(mem)->asked, n))
        return ENOMEM;
    if (FC_MEM(mem)->populate && off >= FC_MEM(mem)->data && n >> FC_MEM(mem)->chunk_shift) {
        if (FC_MEM(mem)->populate == FC_COLLAPSE)
            fc_collapse(mem, off, n);
        else
            madvise(FC_MEM(mem)->base + off, n, FC_POPULATE_WRITE);
    }
    return syscall(SYS_fallocate, FC_MEM(mem)->fd, 0, (long)off, (long)n) == 0 ? 0 : errno;
}

/* Takes the memory of n bytes of the segment's file away; of plain memory, the content. Returns 0, or an errno. */
static inline int fc_punch(mem_t mem, uint64_t off, uint64_t n)
{
    const int how = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
    if (FC_MEM(mem)->fd < 0) {
        memset(FC_MEM(mem)->base + off, 0, n);
        return 0;
    }
    return syscall(SYS_fallocate, FC_MEM(mem)->fd, how, (long)off, (long)n) == 0 ? 0 : errno;
}

/* futex(2) on a word of the segment, shared between processes. futex_wait returns 0 when woken (possibly spuriously), EAGAIN if
 * the word was not `expected`, EINTR at a signal, ETIMEDOUT after timeout_ns nanoseconds. futex_wake returns how many it woke.
 */
static inline int fc_futex_wait(mem_t mem, uint64_t off, uint32_t expected, uint64_t timeout_ns)
{
    struct timespec ts = { (time_t)(timeout_ns / 1000000000u), (long)(timeout_ns % 1000000000u) };
    return syscall(SYS_futex, FC_P32(mem, off), FUTEX_WAIT, expected, &ts, NULL, 0) == 0 ? 0 : errno;
}

static inline int fc_futex_wake(mem_t mem, uint64_t off, uint32_t n)
{
    return (int)syscall(SYS_futex, FC_P32(mem, off), FUTEX_WAKE, n > INT_MAX ? INT_MAX : (int)n, NULL, NULL, 0);
}

static inline void fc_cpu_relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

static inline uint64_t fc_now_ns(void) { return fc_clock_ns(CLOCK_MONOTONIC); }

#endif
