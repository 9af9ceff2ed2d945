"""Where every word of a segment is, and what its values mean.  All offsets and sizes are in bytes.

This file stays plain Python in both worlds. ``tools/generate.py`` writes ``layout.pxd`` from its constants, so that the compiled core has
them as C constants; the model checker gives its own copy smaller ones (``NODE_SHIFT``, ``MAX_ORDER`` ...) before the core loads.

A segment, in order::

    header       one page of 4096 bytes: identity, geometry, and the global state of each part on a line of its own
    tree locks   TREE_LOCKS words, one per 64-byte line; a mapping's is chosen by its ino
    clients      nclients slots of CLIENT_SIZE: who is attached, and the ledger of what each has pinned and is doing
    buckets      nbuckets words: the mapping table's hash chains
    ghosts       nghosts words: what is remembered of folios evicted lately
    names        nnames words: the sets of the name table
    memmap       npages descriptors of FOLIO_SIZE
    data         npages pages of 1 << page_shift bytes

Numbers that stand for places are never pointers: a page is its *pfn*, a folio the offset of its descriptor, a mapping or a node
its *object number* (see ``slab``). ``NIL`` stands for none.
"""

MAGIC = 0x314843_4F494C4F46  # "FOLIOCH1", little-endian
ABI = 3

NIL = 0xFFFFFFFF
LINE = 64

# The reference count (page_ref).
FROZEN = 0x80000000
REF_MAX = 0x40000000
DEAD = 0
GOT = 1
SATURATED = 2

# Header.
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
HDR_IDENTITY_END = 120

STATE_BUILDING = 0
STATE_READY = 1

# A list of folios (pagelist): two words, the pfns of its first and last.
LIST_FIRST = 0
LIST_LAST = 4
LIST_SIZE = 8

# page_alloc: one free list for each order, and the number of free pages.
MAX_ORDER = 10
ALLOC_LOCK = 512
ALLOC_FREE = 516
ALLOC_LISTS = 576

# lru: the queues and their lengths in pages; vmscan's place in the memmap when it clears a block; what lru has learnt.
LRU_LOCK = 768
LRU_PAGES = 776
LRU_LISTS = 800
BLOCK_HAND = 832
LRU_FULL = 896  # pages on the queues when room was last needed; 0: never
LRU_CLOCK = 900  # pages evicted by age, modulo 2^32
LRU_LEARNT = 904  # the clock when the next two were last set
LRU_RIVALS = 908  # a newcomer is held against 2 to this power of main's oldest
LRU_SMALL = 912  # the share of new and small in all pages, in 1024ths
LRU_EVICTED = 916  # a word for each verdict: folios that went with it, of late, in EVENTs
LRU_REFAULTED = 932  # and those of them that came back soon
LRU_ASKED = 948  # the clock when lru last asked whether main is of any use; and since then, of folios:
LRU_MET = 952  # the hand came by in main
LRU_USED = 956  # and how many of them had been used
LRU_GONE = 960  # evicted from small
LRU_AGAIN = 964  # and how many came back at all
LRU_RENEW = 968  # so many of main's oldest are to go unless they were used
LRU_HAND = 972  # where the hand is, in half pages
LRU_USELESS = 976  # how often in a row it was of none
LRU_END = 980

# mapping table.
TABLE_LOCK = 1024
TABLE_COUNT = 1028
TABLE_NEXT_INO = 1032

# name table.
NAMES_LOCK = 1152
NAMES_SERIAL = 1160  # 64 bits: the last one given, to a name or to a change of one

# slab caches: SLAB_LOCK + cache * SLAB_STRIDE and so on.
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
SLAB_KEEP = 2  # empty pages that a cache keeps for itself
# An object's number: pfn << (page_shift - OBJECT_SHIFT) | place within the page.
OBJECT_SHIFT = 8
OBJECT_BITS = 31
OBJECT_MASK = (1 << OBJECT_BITS) - 1

TREE_LOCKS = 256
TREE_LOCK = 4096
HEADER_SIZE = TREE_LOCK + TREE_LOCKS * LINE

# Folio descriptor. Plain words are written by the owner of a frozen folio, or under the lock named behind them.
FOLIO_SIZE = 64
F_REF = 0  # page_ref
F_FLAGS = 4  # flags
F_KIND = 8  # type | order << 8
F_OWNER = 12  # client that has it locked (flags)
F_INO = 16  # 64 bits: identity, with F_INDEX
F_INDEX = 24  # 64 bits
F_ATTACHED = 32  # tree lock: 1 while a slot of its mapping's XArray holds it
F_LENGTH = 36  # valid bytes
F_PREV = 40  # list links: page_alloc's lock when free, lru's for FILE, the slab's for NODE, INODE and NAME
F_NEXT = 44
F_BUDDY = 48  # page_alloc's lock: order + 1 at the head of a free block; or one of the next two; else 0
F_QUEUE = 52  # lru's lock: queue | heat << 8 | verdict << 16 | used << 18; 0 when it is free or no FILE
F_DIGEST = 56  # tree lock, for FILE, 64 bits: the low half of its object's digest, by which its ghost will be known
F_USED = 56  # slab's lock, for NODE, INODE and NAME: objects in use
F_FREE = 60  # slab's lock, for NODE, INODE and NAME: first free object of the page, + 1

# F_BUDDY of a block in use that the reaper looks into: once freed, it is not handed out but parked.
BUDDY_QUARANTINED = 0x40
BUDDY_PARKED = 0x80
QUARANTINE_NONE = 0
QUARANTINE_ON = 1

# Folio types, in F_KIND. Each has its destructor (folio).
TYPE_NONE = 0
TYPE_FILE = 1
TYPE_NODE = 2
TYPE_INODE = 3
TYPE_TABLE = 4
TYPE_NAME = 5
ORDER_SHIFT = 8
TYPE_MASK = 0xFF

# Flags, in F_FLAGS.
PG_LOCKED = 1
PG_WAITERS = 2
PG_UPTODATE = 4
PG_ERROR = 8
PG_REFERENCED = 16
PG_READAHEAD = 32
PG_REASON = 64

# Locks (wait): the word is the owner's client number + 1, with LOCK_WAITERS while somebody sleeps on it, and LOCK_BROKEN if what it
# protects has to be repaired by who takes it next.
LOCK_WAITERS = 0x80000000
LOCK_BROKEN = 0x40000000
LOCK_OWNER = 0x3FFFFFFF
# What taking one comes to.
LOCK_TAKEN = 0
LOCK_REPAIR = 1
LOCK_BUSY = 2
LOCK_SPINS = 100
INTERRUPTED = 4  # EINTR, from futex_wait
LOCK_SLICE_NS = 50_000_000
LOCK_PATIENCE_NS = 2_000_000_000
WAIT_SLICE_NS = 100_000_000

# lru's queues; and heat and verdict, in F_QUEUE.
QUEUE_NONE = 0
QUEUE_NEW = 1
QUEUE_SMALL = 2
QUEUE_MAIN = 3
QUEUES = 4
QUEUE_MASK = 0xFF
HEAT_SHIFT = 8
HEAT_MAX = 7
VERDICT_SHIFT = 16
VERDICT_LEFT = 1  # unused at the end of small
VERDICT_LOST = 2  # a newcomer to main that found no weaker one there
VERDICT_BEATEN = 3  # one of main that had to make room
VERDICT_MASK = 3
USED_SHIFT = 18  # lru's hand has found it used, and taken PG_REFERENCED away
# What lru learns, and its bounds.
RIVALS_FIRST = 3
RIVALS_MAX = 6
SMALL_SHIFT = 10
SMALL_FIRST = 51
SMALL_MIN = 16
SMALL_MAX = 512
SMALL_STEP = 3
LEARN_SHARE = 8
EVENT = 16
FADE = 4
WORTH = 32
ASK_POOLS = 3
ASK_TIMES = 2
ASK_RIVALS = 1
USED_SHARE = 64
AGAIN_SHARE = 64
FILLED_SHARE = 8
# A ghost's word: verdict | heat << 2 | tick << 5 | fingerprint << 15; 0 is none. A tick is a 32nd of the pool's pages.
GHOST_WAYS = 4
GHOST_HEAT_SHIFT = 2
GHOST_TICK_SHIFT = 5
GHOST_TICK_MASK = 0x3FF
GHOST_PRINT_SHIFT = 15
TICK_SHIFT = 5
TICKS_SOON = 8
TICKS_MAX = 64
HASH_MULTIPLIER = 0x9E3779B97F4A7C15
HASH_MASK = 0xFFFFFFFFFFFFFFFF
SCAN_BATCH = 64
LOOKS_MAX = 6  # at one folio: in new, in small, and in main once for a use and three times until no heat is left
PINNED_MAX = 256
SHRINK_TRIES = 4
BLOCKS_MAX = 64

# XArray node, an object of slab SLAB_NODES. Readers touch the slots alone.
NODE_SHIFT = 6
NODE_MASK = (1 << NODE_SHIFT) - 1
NODE_COUNT = 0
OBJECT_NEXT = 4  # the same place in every slab object: 0 in use; OBJECT_FREE | next free object of the page, + 1
OBJECT_FREE = 0x80000000
OBJECT_OWNER = 8  # the same place in every slab object, 64 bits: a record's own ino, a node's mapping, a name's own id
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
XA_CLEARED = 1
XA_LEAKED = 2

# Mapping record, an object of slab SLAB_MAPPINGS. A chain of records has CHAIN_MAX at most; the mean is four.
CHAIN_MAX = 1000
TREE_GONE = 0
TREE_LOCKED = 1
BUCKETS_BATCH = 256  # chains that are looked through under the table's lock at a time
MAPPING_HEAD = 0
MAPPING_INO = 8
MAPPING_DIGEST_LO = 16
MAPPING_DIGEST_HI = 24
MAPPING_OBJECT_SIZE = 32
MAPPING_FOLIOS = 40
MAPPING_HEIGHT = 44
MAPPING_ORDER = 48
MAPPING_CHAIN = 52
MAPPING_KEY_LENGTH = 56
MAPPING_VERSION_LENGTH = 60
MAPPING_KEY = 72  # digest of the key alone
MAPPING_TEXT = 128
MAPPING_TEXT_MAX = 384
MAPPING_SIZE = MAPPING_TEXT + MAPPING_TEXT_MAX

# Name, an object of slab SLAB_NAMES. The words of the index are in sets of NAME_WAYS: 0, or the object number of a name + 1. NAME_SHARE
# names to one page's worth of bytes in the pool: all of them take that share of it at most.
NAME_WAYS = 16
NAME_SHARE = 64
NAME_SEQ = 0  # the sequence word: odd while NAME_DIGEST_LO and what is behind it change, 0 in one that is being made
NAME_ID = 8  # 64 bits (OBJECT_OWNER): serial << OBJECT_BITS | object number; 0 in one that is being made or dropped
NAME_ASKER = 16  # client number + 1 of who asks the origin now, with NAME_WAITERS while somebody sleeps on this word; or 0
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
INO_BUSY = HASH_MASK  # in place of an ino: a lock was refused
FIND_RETRIES = 8
GRAB_TRIES = 64

# Client slot. The lines of CLIENT_OP_SEQ and behind are written by the client alone (and by who reaps it).
CLIENT_SIZE = 8192
CLIENT_PID = 0
CLIENT_GENERATION = 4
CLIENT_STATE = 8
CLIENT_ATTACHED = 16
CLIENT_PID_NAMESPACE = 24  # 64 bits: the one that CLIENT_PID is a number of; 0 if its client could not tell
CLIENT_OP_SEQ = 64  # odd while an operation is under way
CLIENT_OPS = 68  # OPS words: the folios that the operation under way is getting, dropping, building or destroying
CLIENT_COUNTERS = 128
CLIENT_UNNAMED = (
    252  # folios that an operation had in hand without a word left in CLIENT_OPS to name them; 0 unless there is a bug
)
CLIENT_LEDGER = 256  # PINS words: one for each pin that a lease or a window holds
OPS = 15
PINS = (CLIENT_SIZE - CLIENT_LEDGER) // 4
SLOT_CLEAN = 0
SLOT_ATTACHED = 1
SLOT_DEAD = 2  # its client is known to be dead; a reaper is at it, or waits for somebody who uses one of its folios
# A word of CLIENT_OPS or of the ledger: 0, or a pfn with one of these.
PIN_INTENT = 0x80000000  # references may have been taken or dropped, nobody can know
PIN_OWNED = 0x40000000  # exactly one reference
PIN_PFN = 0x3FFFFFFF
GRACE_NS = 100_000_000
QUIET_TRIES = 100

# Parts that are made again from ground truth (reap.repair).
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
COUNTERS = ("hits", "misses", "fills", "fill_bytes", "evictions", "bypasses", "waits", "readahead", "errors", "stalls")
