/* The pair get+put and the small read, in plain C and through the compiled core, timed without Python around them.
 *
 * Compiled at run time (native.py). The core's functions come as pointers out of its modules' __pyx_capi__.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define FROZEN 0x80000000u
#define REF_MAX 0x40000000u

/* The last argument of each is Cython's: it tells a cpdef function that it is called from C. */
typedef uint32_t (*get_fn)(size_t mem, uint64_t folio, int called);
typedef int (*put_fn)(size_t mem, uint64_t folio, int called);
typedef uint32_t (*find_fn)(size_t mem, uint32_t me, uint64_t ino, uint64_t head, uint32_t height, uint64_t index, int called);
typedef int (*drop_fn)(size_t mem, uint32_t me, uint32_t pfn, int called);

enum kind { XADD, MAINLINE, OPTIMISTIC, FETCH_ADD, CORE };

typedef struct {
    int kind;
    int cpu;              /* -1: not pinned */
    uint32_t *word;
    get_fn get;
    put_fn put;
    size_t mem;
    uint64_t folio;
    uint64_t count;
    uint64_t begin_ns;    /* CLOCK_MONOTONIC: all start then */
    uint64_t took_ns;     /* out */
    uint64_t failed;      /* out: pairs that did not get a reference, cmpxchg loops that went round again */
} job;

static uint64_t now_ns(void)
{
    struct timespec ts;
    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

/* Mainline folio_try_get(): page_ref_add_unless_zero(), a cmpxchg loop that begins with a load. */
static inline int get_mainline(uint32_t *word, uint64_t *again)
{
    uint32_t old = __atomic_load_n(word, __ATOMIC_RELAXED);
    do {
        if (old == 0)
            return 0;
        ++*again;
    } while (!__atomic_compare_exchange_n(word, &old, old + 1, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED));
    --*again;
    return 1;
}

/* The same without the first load: assume one reference, as most folios have. */
static inline int get_optimistic(uint32_t *word, uint64_t *again)
{
    uint32_t old = 1;
    while (!__atomic_compare_exchange_n(word, &old, old + 1, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED)) {
        if (old == 0)
            return 0;
        ++*again;
    }
    return 1;
}

/* Ours: one unconditional add; a frozen folio says no. */
static inline int get_fetch_add(uint32_t *word)
{
    uint32_t old = __atomic_fetch_add(word, 1, __ATOMIC_ACQUIRE);
    if (__builtin_expect(old < REF_MAX, 1))
        return 1;
    if (old & FROZEN) {
        old += 1;
        __atomic_compare_exchange_n(word, &old, FROZEN, 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
    }
    return 0;
}

static inline int put_plain(uint32_t *word)
{
    return __atomic_fetch_sub(word, 1, __ATOMIC_RELEASE) == 1;
}

static inline int put_frozen(uint32_t *word)
{
    uint32_t zero = 0;
    if (__atomic_fetch_sub(word, 1, __ATOMIC_RELEASE) != 1)
        return 0;
    return __atomic_compare_exchange_n(word, &zero, FROZEN, 0, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED);
}

#define LOOP(get, put) for (uint64_t i = 0; i < j->count; i++) { if (get) (void)(put); else j->failed++; }

void run(job *j)
{
    uint32_t *word = j->word;
    if (j->cpu >= 0) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(j->cpu, &set);
        sched_setaffinity(0, sizeof set, &set);
    }
    while (now_ns() < j->begin_ns)
        ;
    uint64_t begin = now_ns();
    switch (j->kind) {
    case XADD:
        for (uint64_t i = 0; i < j->count; i++) {
            __atomic_fetch_add(word, 1, __ATOMIC_ACQUIRE);
            j->failed += __atomic_fetch_sub(word, 1, __ATOMIC_RELEASE) == 1;
        }
        break;
    case MAINLINE: LOOP(get_mainline(word, &j->failed), put_plain(word)) break;
    case OPTIMISTIC: LOOP(get_optimistic(word, &j->failed), put_plain(word)) break;
    case FETCH_ADD: LOOP(get_fetch_add(word), put_frozen(word)) break;
    case CORE: LOOP(j->get(j->mem, j->folio, 0) == 1, j->put(j->mem, j->folio, 0)) break;
    }
    j->took_ns = now_ns() - begin;
}

static void *run_thread(void *argument)
{
    run(argument);
    return NULL;
}

int run_threads(job *jobs, int count)
{
    pthread_t threads[64];
    int started = 0;
    while (started < count && started < 64 && pthread_create(&threads[started], NULL, run_thread, &jobs[started]) == 0)
        started++;
    for (int i = 0; i < started; i++)
        pthread_join(threads[i], NULL);
    return started;
}

/* 64 bytes at offset 0 of one cached object, count times: by the core's lookup (data is the mapped pool), or by pread. Checksum out. */
uint64_t read_core(find_fn find, drop_fn drop, size_t mem, uint32_t me, uint64_t ino, uint64_t head, uint32_t height,
                   const char *data, uint32_t page_shift, uint64_t count, uint64_t begin_ns, uint64_t *sum)
{
    uint64_t line[8];
    while (now_ns() < begin_ns)
        ;
    uint64_t begin = now_ns();
    for (uint64_t i = 0; i < count; i++) {
        uint32_t pfn = find(mem, me, ino, head, height, 0, 0);
        if (pfn == 0xFFFFFFFFu)
            return 0;
        memcpy(line, data + ((uint64_t)pfn << page_shift), sizeof line);
        drop(mem, me, pfn, 0);
        *sum += line[0];
    }
    return now_ns() - begin;
}

uint64_t read_file(int fd, uint64_t count, uint64_t begin_ns, uint64_t *sum)
{
    uint64_t line[8];
    while (now_ns() < begin_ns)
        ;
    uint64_t begin = now_ns();
    for (uint64_t i = 0; i < count; i++) {
        if (pread(fd, line, sizeof line, 0) != sizeof line)
            return 0;
        *sum += line[0];
    }
    return now_ns() - begin;
}
