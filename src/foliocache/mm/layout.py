"""Where every word of a segment is, and what its values mean. All offsets and sizes are in bytes.

This file is plain Python, compiled or not. ``tools/generate.py`` writes ``layout.h`` and ``layout.pxd`` from its constants, so
the compiled core has them as C constants; the model checker makes some smaller in its own copy (``NODE_SHIFT``, ``MAX_ORDER``
...).

A segment, in order::

    header       identity, geometry, and the global state of each part on cache lines of its own
    tree locks   TREE_LOCKS words, one per line; a mapping's is selected by its ino
    clients      nclients slots of CLIENT_SIZE: attached processes, with the pins and intents of each
    buckets      nbuckets words: the mapping table's hash chains
    ghosts       nghosts words: what is remembered of evicted folios
    names        nnames words: the name table's index, in sets of NAME_WAYS
    backed       a bit for each chunk of pages: it has memory (backing)
    memmap       npages descriptors of FOLIO_SIZE
    data         npages pages of 1 << page_shift bytes

No place is stored as a pointer: a page is its *pfn*, a folio the offset of its descriptor, a mapping or a node its *object
number* (see ``slab``). ``NIL`` stands for none.
"""

MAGIC = 0x314843_4F494C4F46  # "FOLIOCH1", little-endian
ABI = 8

NIL = 0xFFFFFFFF
LINE = 64  # bytes of a cache line
LOCK_BYTES = 1 << 46  # of the segment's file, where the bytes are whose locks say that a client lives: this + its number

# The reference count (page_ref).
FROZEN = 0x80000000
REF_MAX = 0x40000000
DEAD = 0
GOT = 1
SATURATED = 2

# Header. There are no gaps between the fields, so the width of each is the distance to the next (``pool.header``).
HDR_MAGIC = 0
HDR_ABI = 8
HDR_STATE = 12
HDR_SIZE = 16
HDR_PAGE_SHIFT = 24
HDR_NPAGES = 28
HDR_NCLIENTS = 32
HDR_NBUCKETS = 36
HDR_NGHOSTS = 40
HDR_CHECKSUM = 44
HDR_MEMMAP = 48
HDR_DATA = 56
HDR_CLIENTS = 64
HDR_BUCKETS = 72
HDR_GHOSTS = 80
HDR_CREATED = 88
HDR_POOL = 96
HDR_FENCED = 104
HDR_NNAMES = 108
HDR_NAMES = 112
HDR_BACKED = 120
HDR_CHUNK_SHIFT = 128
HDR_IDENTITY_END = 132

STATE_BUILDING = 0
STATE_READY = 1

# A list of folios (pagelist): two words, the pfns of its first and its last.
LIST_FIRST = 0
LIST_LAST = 4
LIST_SIZE = 8

# page_alloc: one free list for each order, and the number of free pages; the same for free pages that have no memory.
MAX_ORDER = 10
ALLOC_LOCK = 512
ALLOC_FREE = 516
ALLOC_HOLES = 520
ALLOC_LISTS = 576
ALLOC_HOLE_LISTS = 664

# Pages and memory (backing). Every bounds check loads the first word, so it is on a line that is hardly ever written.
PAGES_DESCRIBED = 1536  # the descriptors of the pages before this one have memory, and are set up; it only grows
PAGES_LIMIT = 1540  # ALLOC_LOCK: as many pages may have memory at once
SLOTS_BACKED = 1544  # the client slots before this one have memory; it only grows
CHUNK_SHIFT = 16  # log2 of the bytes that get memory together; a page, if that is larger
HUGE_SHIFT = 21  # the same where the file system gives huge pages; the header says which of the two a pool has
PIECE_SHIFT = 20  # log2 of the most that one fallocate(2) is asked for, or a chunk: others' calls for the same file wait for it
DATA_ALIGN = 1 << 21  # of page 0 in the file: so blocks are aligned as the kernel's huge pages are

# Whose turn it is to watch how much memory is left (trim.take_turn): words with a group of processes and a time.
WATCH_TURNS = 1600
WATCH_WORDS = 16
WATCH_GROUPS = 0xFFF  # a group's number is from 1 to this
WATCH_GROUP_SHIFT = 20  # of the group in a word; below it is the time, in ticks of 2^WATCH_TICK_SHIFT ns
WATCH_TICK_MASK = 0xFFFFF
WATCH_TICK_SHIFT = 23
WATCH_PATIENCE = 12  # ticks after which a turn that has not been renewed may be taken

# lru: the queues and their lengths in pages; vmscan's place in the memmap when it clears a block; lru's adapted parameters and
# counts.
LRU_LOCK = 768
LRU_PAGES = 776
LRU_LISTS = 800
BLOCK_HAND = 832
LRU_FULL = 896  # pages on the queues when a page was last needed; 0: never
LRU_CLOCK = 900  # pages that lru has chosen and that were evicted, modulo 2^32
LRU_LEARNT = 904  # the clock when the next two were last set
LRU_RIVALS = 908  # a newcomer is compared with 2 to this power of main's oldest
LRU_SMALL = 912  # the share of new and small in all pages, in 1024ths
LRU_EVICTED = 916  # folios evicted lately, EVENT for each, decaying; one word for each verdict
LRU_REFAULTED = 932  # those of them that were filled again soon
LRU_ASKED = 948  # the clock when lru last decided whether to renew main; the next four count folios since then:
LRU_MET = 952  # folios of main that the hand passed
LRU_USED = 956  # those of them that had been used
LRU_GONE = 960  # folios evicted from small
LRU_AGAIN = 964  # evicted folios that were filled again
LRU_RENEW = 968  # how many of main's oldest are to be evicted unless they were used
LRU_HAND = 972  # where the hand is, in half pages
LRU_USELESS = 976  # how often in a row main was of no use
LRU_END = 980

# The mapping table.
TABLE_LOCK = 1024
TABLE_COUNT = 1028
TABLE_NEXT_INO = 1032

# The name table.
NAMES_LOCK = 1152
NAMES_SERIAL = 1160  # 64 bits: the last one given, to a name or to a change of one

# The slab caches: SLAB_LOCK + cache * SLAB_STRIDE and so on.
SLAB_STRIDE = 64
SLAB_LOCK = 1280
SLAB_PARTIAL = 1288
SLAB_PAGES = 1296
SLAB_OBJECTS = 1300
SLAB_EMPTY = 1304
SLAB_NODES = 0
SLAB_MAPPINGS = 1
SLAB_NAMES = 2
SLABS = 3
SLAB_KEEP = 2  # empty pages that a cache keeps
# An object's number: pfn << (page_shift - OBJECT_SHIFT) | place within the page.
OBJECT_SHIFT = 8
OBJECT_BITS = 31
OBJECT_MASK = (1 << OBJECT_BITS) - 1

TREE_LOCKS = 256
TREE_LOCK = 4096
HEADER_SIZE = TREE_LOCK + TREE_LOCKS * LINE

# Folio descriptor. Words are written by the owner of the frozen folio, by the module or under the lock that the comment names.
FOLIO_SIZE = 64
F_REF = 0  # page_ref
F_FLAGS = 4  # flags
F_TYPE = 8  # type | order << 8 | span << 16
F_OWNER = 12  # the client that fills it, while PG_LOCKED is set (fill)
F_INO = 16  # 64 bits: identity, with F_INDEX
F_INDEX = 24  # 64 bits: the first of its units
F_ATTACHED = 32  # tree lock: 1 while the slots of its mapping's XArray name it
F_LENGTH = 36  # valid bytes
F_PREV = 40  # list links: page_alloc's lock when free, lru's for FILE, the slab's for NODE, INODE and NAME
F_NEXT = 44
F_BUDDY = 48  # page_alloc's lock: order + 1 at the head of a free block, with BUDDY_HOLE; a quarantine; else 0
F_QUEUE = 52  # lru's lock: queue | heat << 8 | verdict << 11 | used << 13 | seen << 14; 0 if it is free or not a FILE
F_DIGEST = 56  # tree lock, for FILE, 64 bits: MAPPING_DIGEST_LO of its object; ghosts are of its upper half
F_USED = 56  # slab's lock, for NODE, INODE and NAME: objects in use
F_FREE = 60  # slab's lock, for NODE, INODE and NAME: first free object of the page, + 1

BUDDY_HOLE = 0x20  # the free block has no memory, or perhaps only some
# F_BUDDY of a block that the reaper examines: in use; or freed meanwhile, but not handed out.
BUDDY_QUARANTINED = 0x40
BUDDY_PARKED = 0x80
# What page_alloc.quarantine returns, or LOCK_BUSY.
QUARANTINE_NONE = 0
QUARANTINE_ON = 1

# Folio types, in F_TYPE. Each has its destructor (folio).
TYPE_NONE = 0
TYPE_FILE = 1
TYPE_NODE = 2
TYPE_INODE = 3
TYPE_TABLE = 4
TYPE_NAME = 5
TYPE_MASK = 0xFF
ORDER_SHIFT = 8
ORDER_MASK = 0xFF
SPAN_SHIFT = 16
SPAN_MASK = 7

# Flags, in F_FLAGS.
PG_LOCKED = 1
PG_WAITERS = 2
PG_UPTODATE = 4
PG_ERROR = 8
PG_REFERENCED = 16
PG_READAHEAD = 32
PG_REASON = 64

# Locks (robust_lock): the word is the owner's client number + 1, with LOCK_WAITERS while a client sleeps on it, and LOCK_BROKEN
# if the next owner must repair what it protects.
LOCK_WAITERS = 0x80000000
LOCK_BROKEN = 0x40000000
LOCK_OWNER = 0x3FFFFFFF
# What robust_lock.lock returns.
LOCK_TAKEN = 0
LOCK_REPAIR = 1
LOCK_BUSY = 2
LOCK_SPINS = 100
INTERRUPTED = 4  # EINTR, from futex_wait
LOCK_SLICE_NS = 50_000_000  # a sleeper looks at the lock again after this time
LOCK_PATIENCE_NS = 2_000_000_000  # a lock whose living owner does not release it is refused after this time
WAIT_SLICE_NS = 100_000_000  # a client that waits for a fill looks after this time whether the filler is alive

# The turn of a process (turn), in its own memory.
TURN_INSIDE = 0  # 1: a thread has the turn
TURN_EXCLUDED = 4  # how many threads exclude it
TURN_SIZE = 8

# lru's queues; and heat, verdict, used and seen, in F_QUEUE.
QUEUE_NONE = 0
QUEUE_NEW = 1
QUEUE_SMALL = 2
QUEUE_MAIN = 3
QUEUES = 4
QUEUE_MASK = 0xFF
HEAT_SHIFT = 8
HEAT_MAX = 7
VERDICT_SHIFT = 11
VERDICT_LEFT = 1  # evicted from small without heat
VERDICT_LOST = 2  # a newcomer that beat no rival
VERDICT_BEATEN = 3  # evicted from main
VERDICT_MASK = 3
USED_SHIFT = 13  # lru's hand has found it used, and cleared PG_REFERENCED
SEEN_SHIFT = 14  # the tick when it was added, or last found used, of 2^SEEN_TICK_SHIFT ns
SEEN_MASK = 0x3FFFF
SEEN_TICK_SHIFT = 30
SEEN_AHEAD = 0x3C000  # an age of at least this is of a time that is ahead, by another clock: 0
# What lru adapts: first values, bounds and steps.
RIVALS_FIRST = 3
RIVALS_MAX = 6
SMALL_SHIFT = 10  # LRU_SMALL is in units of 1 / 2^SMALL_SHIFT
SMALL_FIRST = 51
SMALL_MIN = 16
SMALL_MAX = 512
SMALL_STEP = 3  # the share changes by 1 / 2^SMALL_STEP of itself
LEARN_SHARE = 8  # the parameters are adapted when 1 / LEARN_SHARE of the cached pages has been evicted
EVENT = 16  # what one folio adds to LRU_EVICTED and LRU_REFAULTED
FADE = 4  # those counts lose 1 / 2^FADE each time
WORTH = 32  # small grows only if at least 1 / WORTH of what left it is filled again soon
ASK_POOLS = 3  # whether to renew main is decided after so many times the cached pages have been evicted
ASK_TIMES = 2  # main must have been of no use so often in a row
ASK_RIVALS = 1  # and LRU_RIVALS must be at most this
USED_SHARE = 64  # main is of no use if less than 1 / USED_SHARE of the folios that the hand passed had been used
AGAIN_SHARE = 64  # and more than 1 / AGAIN_SHARE as many as were evicted from small must have been filled again
FILLED_SHARE = 8  # a pool is filling while more than 1 / FILLED_SHARE of LRU_FULL is missing
# A ghost's word: verdict | heat << 2 | tick << 5 | fingerprint << 15; 0 is none. A tick is an eviction of a 32nd of the pool's
# pages.
GHOST_WAYS = 4  # words of a set
GHOST_HEAT_SHIFT = 2
GHOST_TICK_SHIFT = 5
GHOST_TICK_MASK = 0x3FF
GHOST_PRINT_SHIFT = 15
WHOLE_SHIFT = 31  # of a digest's first word: this bit says that the object is gone without any part of it
KEY_SHIFT = 32  # of a digest's first word: the bits from here on are a digest of the object's key alone
TICK_SHIFT = 5
TICKS_SOON = 8  # "soon": within so many ticks
TICKS_MAX = 64  # an older ghost is ignored
HASH_MULTIPLIER = 0x9E3779B97F4A7C15
HASH_MASK = 0xFFFFFFFFFFFFFFFF
SCAN_BATCH = 64  # folios that reclaim looks at while it holds LRU_LOCK
LOOKS_MAX = 6  # at one folio: in new, in small, and in main once for a use and three times until no heat is left
IDLE_BATCH = 1024  # pages that are looked at for idle folios while LRU_LOCK is held
PINNED_MAX = 256
SHRINK_TRIES = 4
BLOCKS_MAX = 64

# XArray node, an object of slab SLAB_NODES. Readers access only the slots.
NODE_SHIFT = 6
NODE_MASK = (1 << NODE_SHIFT) - 1
SPAN_MAX = min(4, NODE_SHIFT)  # a folio of FILE has 2^span units, and their slots are in one leaf
NODE_COUNT = 0
OBJECT_NEXT = 4  # at this offset in every slab object: 0 in use; OBJECT_FREE | next free object of the page, + 1
OBJECT_FREE = 0x80000000
OBJECT_OWNER = 8  # at this offset in every slab object, 64 bits: a record's own ino, a node's mapping, a name's own id
NODE_INO = 8
NODE_INDEX = 16
NODE_LEVEL = 24
NODE_SLOTS = 64
NODE_SIZE = NODE_SLOTS + (4 << NODE_SHIFT)
XA_INDEX_BITS = 40
XA_INDEX_MAX = (1 << XA_INDEX_BITS) - 1
XA_HEIGHT_MAX = (XA_INDEX_BITS + NODE_SHIFT - 1) // NODE_SHIFT
# An entry: 0 empty; bit 0 set, a node's object number << 1; else a folio, (pfn + 1) << 1.
XA_NODE = 1
XA_OK = 0
XA_EXISTS = 1
XA_NOMEM = 2
XA_BROKEN = 3
XA_COUNT = 0xFF
XA_CLEARED = 0x100
XA_LEAKED = 0x200

# Mapping record, an object of slab SLAB_MAPPINGS. A hash chain has at most CHAIN_MAX records; the mean is four.
CHAIN_MAX = 1000
TREE_GONE = 0
TREE_LOCKED = 1
BUCKETS_BATCH = 256  # chains that are searched while the table's lock is held
MAPPING_HEAD = 0
MAPPING_INO = 8
MAPPING_DIGEST_LO = 16  # the bits from KEY_SHIFT on are MAPPING_KEY's
MAPPING_DIGEST_HI = 24
MAPPING_OBJECT_SIZE = 32
MAPPING_FOLIOS = 40
MAPPING_HEIGHT = 44
MAPPING_UNIT_ORDER = 48
MAPPING_CHAIN = 52
MAPPING_KEY_LENGTH = 56
MAPPING_VERSION_LENGTH = 60
MAPPING_KEY = 72  # digest of the key alone
MAPPING_TEXT = 128
MAPPING_TEXT_MAX = 384
MAPPING_SIZE = MAPPING_TEXT + MAPPING_TEXT_MAX

# Name, an object of slab SLAB_NAMES. The words of the index are in sets of NAME_WAYS: 0, or the object number of a name + 1.
# There are so many words that their names take 1 / NAME_SHARE of the pool at most.
NAME_WAYS = 16
NAME_SHARE = 64
NAME_SEQ = 0  # the sequence word: odd while NAME_DIGEST_LO and what is behind it change, 0 in one that is being made
NAME_ID = 8  # 64 bits (OBJECT_OWNER): serial << OBJECT_BITS | object number; 0 in one that is being made or dropped
NAME_ASKER = 16  # client number + 1 of who asks the origin now, with NAME_WAITERS while a client sleeps on this word; or 0
NAME_ASKER_LIFE = 20  # CLIENT_GENERATION of that client's slot
NAME_ASKED = 24  # 64 bits: when it began to ask
NAME_USED = 32  # 1 if it was looked up since the last reclaim of its set
NAME_DIGEST_LO = 40
NAME_DIGEST_HI = 48
NAME_KEY = 56  # 64 bits: digest of the key without who asks; chooses the set
NAME_STATE = 64  # 64 bits: one of the next three | lengths of version, extra and text at their shifts
NAME_SINCE = 72  # 64 bits: when the question was asked whose answer this is
NAME_OBJECT_SIZE = 80  # 64 bits
NAME_TEXT = 88  # the key, for people
NAME_TEXT_MAX = 168
NAME_DATA = NAME_TEXT + NAME_TEXT_MAX  # the version, and behind it what the asker has added
NAME_DATA_MAX = 256
NAME_SIZE = NAME_DATA + NAME_DATA_MAX
NAME_WAITERS = 0x80000000
NAME_UNKNOWN = 0
NAME_PRESENT = 1
NAME_ABSENT = 2
NAME_STATE_MASK = 0xFF
NAME_VERSION_SHIFT = 8
NAME_EXTRA_SHIFT = 24
NAME_TEXT_SHIFT = 40
NAME_LENGTH_MASK = 0xFFFF
# What names.begin returns: the id of a name whose asker the caller is now, or one of these.
NAME_NOMEM = 0
NAME_FRESH = 1
NAME_TAKEN = 2
NAME_BUSY = 3
NAME_AHEAD_NS = 1_000_000_000  # a time that is further ahead than this is another clock's

# What filemap.grab returns: a pfn, with GRAB_ADDED when the folio is new and locked by the caller; or one of the last two.
GRAB_ADDED = 1 << 32
GRAB_NOMEM = 1 << 33
GRAB_GONE = 1 << 34
INO_BUSY = HASH_MASK  # returned in place of an ino: a lock was refused
FIND_RETRIES = 8
GRAB_TRIES = 64

# Client slot. The lines from CLIENT_OP_SEQ on are written only by the client, and by a reaper once the client is dead.
CLIENT_PID = 0
CLIENT_GENERATION = 4
CLIENT_STATE = 8
CLIENT_ATTACHED = 16
CLIENT_PID_NAMESPACE = 24  # 64 bits: the inode number of the namespace of CLIENT_PID; 0: unknown
CLIENT_OP_SEQ = 64  # odd while an operation is under way
CLIENT_OPS = 68  # OPS words: intents, for the folios that the current operation is getting, dropping, building or destroying
CLIENT_COUNTERS = 128
CLIENT_UNNAMED = 252  # how many intents found no free word in CLIENT_OPS; 0 unless there is a bug
CLIENT_LEDGER = 256  # PINS words: owned, for each pin that a lease or a window holds
OPS = 15
PINS = 1984
CLIENT_STATISTICS = CLIENT_LEDGER + 4 * PINS  # STAT_WORDS words of 64 bits: what is counted outside hits, on a page of its own
STAT_WORDS = 512
CLIENT_SIZE = CLIENT_STATISTICS + 8 * STAT_WORDS
SLOT_CLEAN = 0
SLOT_ATTACHED = 1
SLOT_DEAD = 2  # its client is known to be dead, and a reaper has not settled everything yet
# A word of CLIENT_OPS or of the ledger: 0, or a pfn with one of these bits.
PIN_INTENT = 0x80000000  # references may have been taken or dropped
PIN_OWNED = 0x40000000  # exactly one reference is held
PIN_PFN = 0x3FFFFFFF
GRACE_NS = 100_000_000  # how long wait_grace_period waits for one client
QUIET_TRIES = 100

# Parts that reap.repair rebuilds from ground truth.
REPAIR_LISTS = 0  # page_alloc
REPAIR_QUEUES = 1  # lru
REPAIR_SLABS = 2
REPAIR_TABLE = 3  # the mapping table's chains
REPAIR_TREES = 4
REPAIR_NAMES = 5  # the name table's index

# Counters of a client, 64 bits each.
COUNT_HITS = 0
COUNT_MISSES = 1
COUNT_FILLS = 2
COUNT_FILL_BYTES = 3
COUNT_EVICTIONS = 4
COUNT_BYPASSES = 5
COUNT_WAITS = 6
COUNT_READAHEAD = 7
COUNT_ERRORS = 8
COUNT_STALLS = 9
COUNT_GIVEN_BACK = 10  # bytes
COUNT_GIVEN_BACK_PRESSURE = 11  # bytes: those of them that others needed
COUNTERS = tuple(name.removeprefix("COUNT_").lower() for name in list(globals()) if name.startswith("COUNT_"))  # in their order

# Statistics of a client: the numbers of its words. A histogram of durations has BUCKETS words, in which bucket b counts those
# of less than 2^(BUCKET_SHIFT + b) ns, the last one all longer ones; and behind them, in STAT_SUM, the sum in ns.
BUCKETS = 27
BUCKET_SHIFT = 10
STAT_SUM = BUCKETS
# For each kind of source: a histogram of its requests, and what they have brought.
STAT_SOURCES = 0
SOURCE_WORDS = 32
SOURCE_BYTES = 29
SOURCE_ERRORS = 30
SOURCES = ("function", "http", "obstore", "fsspec", "objects", "disk", "valkey", "other")
SOURCE_KINDS = 8  # how many these are
STAT_WAITS = 256  # a histogram of waits for another process or thread that fills
STAT_LOCK_WAITS = 288  # a histogram of waits for locks that were not free
STAT_EVICTED = 320  # folios that left by lru's choice, by verdict; the other evictions cleared a block, or a chunk to give back
STAT_REFAULTS = 328  # units filled: all, and those whose ghosts were of at most REFAULT_TICKS << k ticks
REFAULT_TICKS = TICKS_SOON
REFAULT_AGES = 4
STAT_TIERS = 336  # for each of TIERS TIER_WORDS words; their requests, bytes and errors are those of the source of that name
TIER_WORDS = 8
TIERS = ("disk", "valkey")
TIER_HITS = 0  # folios that it had
TIER_MISSES = 1
TIER_SKIPPED = 2  # folios that it was not asked for, because it is left alone
TIER_STORES = 3
TIER_STORE_BYTES = 4
TIER_DROPPED = 5  # folios that were not stored: the queue was full, or the tier is left alone
TIER_DECLINED = 6  # folios that it did not want

# What the hit ratio of the last minutes is worked out from: samples of the sums of all clients' counters, each with its check.
HISTORY = 2048
HISTORY_SAMPLES = 32
HISTORY_SIZE = 64
HISTORY_TIME = 0  # 64 bits, as all of these: ns of CLOCK_BOOTTIME; a sample of time t is number t // HISTORY_STEP_NS
HISTORY_HITS = 8
HISTORY_MISSES = 16
HISTORY_FILL_BYTES = 24
HISTORY_EVICTIONS = 32
HISTORY_CHECK = 40  # of the words before it: a sample that two processes wrote at once, or one did not finish, does not have it
HISTORY_STEP_NS = 30_000_000_000
