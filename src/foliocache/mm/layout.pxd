# Written by tools/generate.py from layout.py.
from libc.stdint cimport uint32_t as u32, uint64_t as u64


cdef extern from *:
    """
    #define FC_MAGIC 0x3148434f494c4f46ull
    #define FC_ABI 0x3u
    #define FC_NIL 0xffffffffu
    #define FC_LINE 0x40u
    #define FC_FROZEN 0x80000000u
    #define FC_REF_MAX 0x40000000u
    #define FC_DEAD 0x0u
    #define FC_GOT 0x1u
    #define FC_SATURATED 0x2u
    #define FC_HDR_MAGIC 0x0u
    #define FC_HDR_ABI 0x8u
    #define FC_HDR_STATE 0xcu
    #define FC_HDR_SIZE 0x10u
    #define FC_HDR_PAGE_SHIFT 0x18u
    #define FC_HDR_NPAGES 0x1cu
    #define FC_HDR_NCLIENTS 0x20u
    #define FC_HDR_NBUCKETS 0x24u
    #define FC_HDR_NGHOSTS 0x28u
    #define FC_HDR_CHECKSUM 0x2cu
    #define FC_HDR_MEMMAP 0x30u
    #define FC_HDR_DATA 0x38u
    #define FC_HDR_CLIENTS 0x40u
    #define FC_HDR_BUCKETS 0x48u
    #define FC_HDR_GHOSTS 0x50u
    #define FC_HDR_CREATED 0x58u
    #define FC_HDR_POOL 0x60u
    #define FC_HDR_FENCED 0x68u
    #define FC_HDR_NNAMES 0x6cu
    #define FC_HDR_NAMES 0x70u
    #define FC_HDR_IDENTITY_END 0x78u
    #define FC_STATE_BUILDING 0x0u
    #define FC_STATE_READY 0x1u
    #define FC_LIST_FIRST 0x0u
    #define FC_LIST_LAST 0x4u
    #define FC_LIST_SIZE 0x8u
    #define FC_MAX_ORDER 0xau
    #define FC_ALLOC_LOCK 0x200u
    #define FC_ALLOC_FREE 0x204u
    #define FC_ALLOC_LISTS 0x240u
    #define FC_LRU_LOCK 0x300u
    #define FC_LRU_PAGES 0x308u
    #define FC_LRU_LISTS 0x320u
    #define FC_BLOCK_HAND 0x340u
    #define FC_LRU_FULL 0x380u
    #define FC_LRU_CLOCK 0x384u
    #define FC_LRU_LEARNT 0x388u
    #define FC_LRU_RIVALS 0x38cu
    #define FC_LRU_SMALL 0x390u
    #define FC_LRU_EVICTED 0x394u
    #define FC_LRU_REFAULTED 0x3a4u
    #define FC_LRU_ASKED 0x3b4u
    #define FC_LRU_MET 0x3b8u
    #define FC_LRU_USED 0x3bcu
    #define FC_LRU_GONE 0x3c0u
    #define FC_LRU_AGAIN 0x3c4u
    #define FC_LRU_RENEW 0x3c8u
    #define FC_LRU_HAND 0x3ccu
    #define FC_LRU_USELESS 0x3d0u
    #define FC_LRU_END 0x3d4u
    #define FC_TABLE_LOCK 0x400u
    #define FC_TABLE_COUNT 0x404u
    #define FC_TABLE_NEXT_INO 0x408u
    #define FC_NAMES_LOCK 0x480u
    #define FC_NAMES_SERIAL 0x488u
    #define FC_SLAB_STRIDE 0x40u
    #define FC_SLAB_LOCK 0x500u
    #define FC_SLAB_PARTIAL 0x508u
    #define FC_SLAB_PAGES 0x510u
    #define FC_SLAB_OBJECTS 0x514u
    #define FC_SLAB_EMPTY 0x518u
    #define FC_SLAB_NODES 0x0u
    #define FC_SLAB_MAPPINGS 0x1u
    #define FC_SLAB_NAMES 0x2u
    #define FC_SLABS 0x3u
    #define FC_SLAB_KEEP 0x2u
    #define FC_OBJECT_SHIFT 0x8u
    #define FC_OBJECT_BITS 0x1fu
    #define FC_OBJECT_MASK 0x7fffffffu
    #define FC_TREE_LOCKS 0x100u
    #define FC_TREE_LOCK 0x1000u
    #define FC_HEADER_SIZE 0x5000u
    #define FC_FOLIO_SIZE 0x40u
    #define FC_F_REF 0x0u
    #define FC_F_FLAGS 0x4u
    #define FC_F_KIND 0x8u
    #define FC_F_OWNER 0xcu
    #define FC_F_INO 0x10u
    #define FC_F_INDEX 0x18u
    #define FC_F_ATTACHED 0x20u
    #define FC_F_LENGTH 0x24u
    #define FC_F_PREV 0x28u
    #define FC_F_NEXT 0x2cu
    #define FC_F_BUDDY 0x30u
    #define FC_F_QUEUE 0x34u
    #define FC_F_DIGEST 0x38u
    #define FC_F_USED 0x38u
    #define FC_F_FREE 0x3cu
    #define FC_BUDDY_QUARANTINED 0x40u
    #define FC_BUDDY_PARKED 0x80u
    #define FC_QUARANTINE_NONE 0x0u
    #define FC_QUARANTINE_ON 0x1u
    #define FC_TYPE_NONE 0x0u
    #define FC_TYPE_FILE 0x1u
    #define FC_TYPE_NODE 0x2u
    #define FC_TYPE_INODE 0x3u
    #define FC_TYPE_TABLE 0x4u
    #define FC_TYPE_NAME 0x5u
    #define FC_ORDER_SHIFT 0x8u
    #define FC_TYPE_MASK 0xffu
    #define FC_PG_LOCKED 0x1u
    #define FC_PG_WAITERS 0x2u
    #define FC_PG_UPTODATE 0x4u
    #define FC_PG_ERROR 0x8u
    #define FC_PG_REFERENCED 0x10u
    #define FC_PG_READAHEAD 0x20u
    #define FC_PG_REASON 0x40u
    #define FC_LOCK_WAITERS 0x80000000u
    #define FC_LOCK_BROKEN 0x40000000u
    #define FC_LOCK_OWNER 0x3fffffffu
    #define FC_LOCK_TAKEN 0x0u
    #define FC_LOCK_REPAIR 0x1u
    #define FC_LOCK_BUSY 0x2u
    #define FC_LOCK_SPINS 0x64u
    #define FC_INTERRUPTED 0x4u
    #define FC_LOCK_SLICE_NS 0x2faf080u
    #define FC_LOCK_PATIENCE_NS 0x77359400u
    #define FC_WAIT_SLICE_NS 0x5f5e100u
    #define FC_QUEUE_NONE 0x0u
    #define FC_QUEUE_NEW 0x1u
    #define FC_QUEUE_SMALL 0x2u
    #define FC_QUEUE_MAIN 0x3u
    #define FC_QUEUES 0x4u
    #define FC_QUEUE_MASK 0xffu
    #define FC_HEAT_SHIFT 0x8u
    #define FC_HEAT_MAX 0x7u
    #define FC_VERDICT_SHIFT 0x10u
    #define FC_VERDICT_LEFT 0x1u
    #define FC_VERDICT_LOST 0x2u
    #define FC_VERDICT_BEATEN 0x3u
    #define FC_VERDICT_MASK 0x3u
    #define FC_USED_SHIFT 0x12u
    #define FC_RIVALS_FIRST 0x3u
    #define FC_RIVALS_MAX 0x6u
    #define FC_SMALL_SHIFT 0xau
    #define FC_SMALL_FIRST 0x33u
    #define FC_SMALL_MIN 0x10u
    #define FC_SMALL_MAX 0x200u
    #define FC_SMALL_STEP 0x3u
    #define FC_LEARN_SHARE 0x8u
    #define FC_EVENT 0x10u
    #define FC_FADE 0x4u
    #define FC_WORTH 0x20u
    #define FC_ASK_POOLS 0x3u
    #define FC_ASK_TIMES 0x2u
    #define FC_ASK_RIVALS 0x1u
    #define FC_USED_SHARE 0x40u
    #define FC_AGAIN_SHARE 0x40u
    #define FC_FILLED_SHARE 0x8u
    #define FC_GHOST_WAYS 0x4u
    #define FC_GHOST_HEAT_SHIFT 0x2u
    #define FC_GHOST_TICK_SHIFT 0x5u
    #define FC_GHOST_TICK_MASK 0x3ffu
    #define FC_GHOST_PRINT_SHIFT 0xfu
    #define FC_TICK_SHIFT 0x5u
    #define FC_TICKS_SOON 0x8u
    #define FC_TICKS_MAX 0x40u
    #define FC_HASH_MULTIPLIER 0x9e3779b97f4a7c15ull
    #define FC_HASH_MASK 0xffffffffffffffffull
    #define FC_SCAN_BATCH 0x40u
    #define FC_LOOKS_MAX 0x6u
    #define FC_PINNED_MAX 0x100u
    #define FC_SHRINK_TRIES 0x4u
    #define FC_BLOCKS_MAX 0x40u
    #define FC_NODE_SHIFT 0x6u
    #define FC_NODE_MASK 0x3fu
    #define FC_NODE_COUNT 0x0u
    #define FC_OBJECT_NEXT 0x4u
    #define FC_OBJECT_FREE 0x80000000u
    #define FC_OBJECT_OWNER 0x8u
    #define FC_NODE_INO 0x8u
    #define FC_NODE_INDEX 0x10u
    #define FC_NODE_LEVEL 0x18u
    #define FC_NODE_SLOTS 0x40u
    #define FC_NODE_SIZE 0x140u
    #define FC_XA_INDEX_BITS 0x28u
    #define FC_XA_INDEX_MAX 0xffffffffffull
    #define FC_XA_HEIGHT_MAX 0x7u
    #define FC_XA_NODE 0x1u
    #define FC_XA_OK 0x0u
    #define FC_XA_EXISTS 0x1u
    #define FC_XA_NOMEM 0x2u
    #define FC_XA_BROKEN 0x3u
    #define FC_XA_CLEARED 0x1u
    #define FC_XA_LEAKED 0x2u
    #define FC_CHAIN_MAX 0x3e8u
    #define FC_TREE_GONE 0x0u
    #define FC_TREE_LOCKED 0x1u
    #define FC_BUCKETS_BATCH 0x100u
    #define FC_MAPPING_HEAD 0x0u
    #define FC_MAPPING_INO 0x8u
    #define FC_MAPPING_DIGEST_LO 0x10u
    #define FC_MAPPING_DIGEST_HI 0x18u
    #define FC_MAPPING_OBJECT_SIZE 0x20u
    #define FC_MAPPING_FOLIOS 0x28u
    #define FC_MAPPING_HEIGHT 0x2cu
    #define FC_MAPPING_ORDER 0x30u
    #define FC_MAPPING_CHAIN 0x34u
    #define FC_MAPPING_KEY_LENGTH 0x38u
    #define FC_MAPPING_VERSION_LENGTH 0x3cu
    #define FC_MAPPING_KEY 0x48u
    #define FC_MAPPING_TEXT 0x80u
    #define FC_MAPPING_TEXT_MAX 0x180u
    #define FC_MAPPING_SIZE 0x200u
    #define FC_NAME_WAYS 0x10u
    #define FC_NAME_SHARE 0x40u
    #define FC_NAME_SEQ 0x0u
    #define FC_NAME_ID 0x8u
    #define FC_NAME_ASKER 0x10u
    #define FC_NAME_ASKER_LIFE 0x14u
    #define FC_NAME_ASKED 0x18u
    #define FC_NAME_USED 0x20u
    #define FC_NAME_DIGEST_LO 0x28u
    #define FC_NAME_DIGEST_HI 0x30u
    #define FC_NAME_KEY 0x38u
    #define FC_NAME_STATE 0x40u
    #define FC_NAME_SINCE 0x48u
    #define FC_NAME_OBJECT_SIZE 0x50u
    #define FC_NAME_TEXT 0x58u
    #define FC_NAME_TEXT_MAX 0xa8u
    #define FC_NAME_DATA 0x100u
    #define FC_NAME_DATA_MAX 0x100u
    #define FC_NAME_SIZE 0x200u
    #define FC_NAME_WAITERS 0x80000000u
    #define FC_NAME_UNKNOWN 0x0u
    #define FC_NAME_PRESENT 0x1u
    #define FC_NAME_ABSENT 0x2u
    #define FC_NAME_STATE_MASK 0xffu
    #define FC_NAME_VERSION_SHIFT 0x8u
    #define FC_NAME_EXTRA_SHIFT 0x18u
    #define FC_NAME_TEXT_SHIFT 0x28u
    #define FC_NAME_LENGTH_MASK 0xffffu
    #define FC_NAME_NOMEM 0x0u
    #define FC_NAME_FRESH 0x1u
    #define FC_NAME_TAKEN 0x2u
    #define FC_NAME_BUSY 0x3u
    #define FC_NAME_AHEAD_NS 0x3b9aca00u
    #define FC_GRAB_ADDED 0x100000000ull
    #define FC_GRAB_NOMEM 0x200000000ull
    #define FC_GRAB_GONE 0x400000000ull
    #define FC_INO_BUSY 0xffffffffffffffffull
    #define FC_FIND_RETRIES 0x8u
    #define FC_GRAB_TRIES 0x40u
    #define FC_CLIENT_SIZE 0x2000u
    #define FC_CLIENT_PID 0x0u
    #define FC_CLIENT_GENERATION 0x4u
    #define FC_CLIENT_STATE 0x8u
    #define FC_CLIENT_ATTACHED 0x10u
    #define FC_CLIENT_PID_NAMESPACE 0x18u
    #define FC_CLIENT_OP_SEQ 0x40u
    #define FC_CLIENT_OPS 0x44u
    #define FC_CLIENT_COUNTERS 0x80u
    #define FC_CLIENT_UNNAMED 0xfcu
    #define FC_CLIENT_LEDGER 0x100u
    #define FC_OPS 0xfu
    #define FC_PINS 0x7c0u
    #define FC_SLOT_CLEAN 0x0u
    #define FC_SLOT_ATTACHED 0x1u
    #define FC_SLOT_DEAD 0x2u
    #define FC_PIN_INTENT 0x80000000u
    #define FC_PIN_OWNED 0x40000000u
    #define FC_PIN_PFN 0x3fffffffu
    #define FC_GRACE_NS 0x5f5e100u
    #define FC_QUIET_TRIES 0x64u
    #define FC_REPAIR_LISTS 0x0u
    #define FC_REPAIR_QUEUES 0x1u
    #define FC_REPAIR_SLABS 0x2u
    #define FC_REPAIR_TABLE 0x3u
    #define FC_REPAIR_TREES 0x4u
    #define FC_REPAIR_NAMES 0x5u
    #define FC_COUNT_HITS 0x0u
    #define FC_COUNT_MISSES 0x1u
    #define FC_COUNT_FILLS 0x2u
    #define FC_COUNT_FILL_BYTES 0x3u
    #define FC_COUNT_EVICTIONS 0x4u
    #define FC_COUNT_BYPASSES 0x5u
    #define FC_COUNT_WAITS 0x6u
    #define FC_COUNT_READAHEAD 0x7u
    #define FC_COUNT_ERRORS 0x8u
    #define FC_COUNT_STALLS 0x9u
    """
    const u64 MAGIC "FC_MAGIC"
    const u32 ABI "FC_ABI"
    const u32 NIL "FC_NIL"
    const u32 LINE "FC_LINE"
    const u32 FROZEN "FC_FROZEN"
    const u32 REF_MAX "FC_REF_MAX"
    const u32 DEAD "FC_DEAD"
    const u32 GOT "FC_GOT"
    const u32 SATURATED "FC_SATURATED"
    const u32 HDR_MAGIC "FC_HDR_MAGIC"
    const u32 HDR_ABI "FC_HDR_ABI"
    const u32 HDR_STATE "FC_HDR_STATE"
    const u32 HDR_SIZE "FC_HDR_SIZE"
    const u32 HDR_PAGE_SHIFT "FC_HDR_PAGE_SHIFT"
    const u32 HDR_NPAGES "FC_HDR_NPAGES"
    const u32 HDR_NCLIENTS "FC_HDR_NCLIENTS"
    const u32 HDR_NBUCKETS "FC_HDR_NBUCKETS"
    const u32 HDR_NGHOSTS "FC_HDR_NGHOSTS"
    const u32 HDR_CHECKSUM "FC_HDR_CHECKSUM"
    const u32 HDR_MEMMAP "FC_HDR_MEMMAP"
    const u32 HDR_DATA "FC_HDR_DATA"
    const u32 HDR_CLIENTS "FC_HDR_CLIENTS"
    const u32 HDR_BUCKETS "FC_HDR_BUCKETS"
    const u32 HDR_GHOSTS "FC_HDR_GHOSTS"
    const u32 HDR_CREATED "FC_HDR_CREATED"
    const u32 HDR_POOL "FC_HDR_POOL"
    const u32 HDR_FENCED "FC_HDR_FENCED"
    const u32 HDR_NNAMES "FC_HDR_NNAMES"
    const u32 HDR_NAMES "FC_HDR_NAMES"
    const u32 HDR_IDENTITY_END "FC_HDR_IDENTITY_END"
    const u32 STATE_BUILDING "FC_STATE_BUILDING"
    const u32 STATE_READY "FC_STATE_READY"
    const u32 LIST_FIRST "FC_LIST_FIRST"
    const u32 LIST_LAST "FC_LIST_LAST"
    const u32 LIST_SIZE "FC_LIST_SIZE"
    const u32 MAX_ORDER "FC_MAX_ORDER"
    const u32 ALLOC_LOCK "FC_ALLOC_LOCK"
    const u32 ALLOC_FREE "FC_ALLOC_FREE"
    const u32 ALLOC_LISTS "FC_ALLOC_LISTS"
    const u32 LRU_LOCK "FC_LRU_LOCK"
    const u32 LRU_PAGES "FC_LRU_PAGES"
    const u32 LRU_LISTS "FC_LRU_LISTS"
    const u32 BLOCK_HAND "FC_BLOCK_HAND"
    const u32 LRU_FULL "FC_LRU_FULL"
    const u32 LRU_CLOCK "FC_LRU_CLOCK"
    const u32 LRU_LEARNT "FC_LRU_LEARNT"
    const u32 LRU_RIVALS "FC_LRU_RIVALS"
    const u32 LRU_SMALL "FC_LRU_SMALL"
    const u32 LRU_EVICTED "FC_LRU_EVICTED"
    const u32 LRU_REFAULTED "FC_LRU_REFAULTED"
    const u32 LRU_ASKED "FC_LRU_ASKED"
    const u32 LRU_MET "FC_LRU_MET"
    const u32 LRU_USED "FC_LRU_USED"
    const u32 LRU_GONE "FC_LRU_GONE"
    const u32 LRU_AGAIN "FC_LRU_AGAIN"
    const u32 LRU_RENEW "FC_LRU_RENEW"
    const u32 LRU_HAND "FC_LRU_HAND"
    const u32 LRU_USELESS "FC_LRU_USELESS"
    const u32 LRU_END "FC_LRU_END"
    const u32 TABLE_LOCK "FC_TABLE_LOCK"
    const u32 TABLE_COUNT "FC_TABLE_COUNT"
    const u32 TABLE_NEXT_INO "FC_TABLE_NEXT_INO"
    const u32 NAMES_LOCK "FC_NAMES_LOCK"
    const u32 NAMES_SERIAL "FC_NAMES_SERIAL"
    const u32 SLAB_STRIDE "FC_SLAB_STRIDE"
    const u32 SLAB_LOCK "FC_SLAB_LOCK"
    const u32 SLAB_PARTIAL "FC_SLAB_PARTIAL"
    const u32 SLAB_PAGES "FC_SLAB_PAGES"
    const u32 SLAB_OBJECTS "FC_SLAB_OBJECTS"
    const u32 SLAB_EMPTY "FC_SLAB_EMPTY"
    const u32 SLAB_NODES "FC_SLAB_NODES"
    const u32 SLAB_MAPPINGS "FC_SLAB_MAPPINGS"
    const u32 SLAB_NAMES "FC_SLAB_NAMES"
    const u32 SLABS "FC_SLABS"
    const u32 SLAB_KEEP "FC_SLAB_KEEP"
    const u32 OBJECT_SHIFT "FC_OBJECT_SHIFT"
    const u32 OBJECT_BITS "FC_OBJECT_BITS"
    const u32 OBJECT_MASK "FC_OBJECT_MASK"
    const u32 TREE_LOCKS "FC_TREE_LOCKS"
    const u32 TREE_LOCK "FC_TREE_LOCK"
    const u32 HEADER_SIZE "FC_HEADER_SIZE"
    const u32 FOLIO_SIZE "FC_FOLIO_SIZE"
    const u32 F_REF "FC_F_REF"
    const u32 F_FLAGS "FC_F_FLAGS"
    const u32 F_KIND "FC_F_KIND"
    const u32 F_OWNER "FC_F_OWNER"
    const u32 F_INO "FC_F_INO"
    const u32 F_INDEX "FC_F_INDEX"
    const u32 F_ATTACHED "FC_F_ATTACHED"
    const u32 F_LENGTH "FC_F_LENGTH"
    const u32 F_PREV "FC_F_PREV"
    const u32 F_NEXT "FC_F_NEXT"
    const u32 F_BUDDY "FC_F_BUDDY"
    const u32 F_QUEUE "FC_F_QUEUE"
    const u32 F_DIGEST "FC_F_DIGEST"
    const u32 F_USED "FC_F_USED"
    const u32 F_FREE "FC_F_FREE"
    const u32 BUDDY_QUARANTINED "FC_BUDDY_QUARANTINED"
    const u32 BUDDY_PARKED "FC_BUDDY_PARKED"
    const u32 QUARANTINE_NONE "FC_QUARANTINE_NONE"
    const u32 QUARANTINE_ON "FC_QUARANTINE_ON"
    const u32 TYPE_NONE "FC_TYPE_NONE"
    const u32 TYPE_FILE "FC_TYPE_FILE"
    const u32 TYPE_NODE "FC_TYPE_NODE"
    const u32 TYPE_INODE "FC_TYPE_INODE"
    const u32 TYPE_TABLE "FC_TYPE_TABLE"
    const u32 TYPE_NAME "FC_TYPE_NAME"
    const u32 ORDER_SHIFT "FC_ORDER_SHIFT"
    const u32 TYPE_MASK "FC_TYPE_MASK"
    const u32 PG_LOCKED "FC_PG_LOCKED"
    const u32 PG_WAITERS "FC_PG_WAITERS"
    const u32 PG_UPTODATE "FC_PG_UPTODATE"
    const u32 PG_ERROR "FC_PG_ERROR"
    const u32 PG_REFERENCED "FC_PG_REFERENCED"
    const u32 PG_READAHEAD "FC_PG_READAHEAD"
    const u32 PG_REASON "FC_PG_REASON"
    const u32 LOCK_WAITERS "FC_LOCK_WAITERS"
    const u32 LOCK_BROKEN "FC_LOCK_BROKEN"
    const u32 LOCK_OWNER "FC_LOCK_OWNER"
    const u32 LOCK_TAKEN "FC_LOCK_TAKEN"
    const u32 LOCK_REPAIR "FC_LOCK_REPAIR"
    const u32 LOCK_BUSY "FC_LOCK_BUSY"
    const u32 LOCK_SPINS "FC_LOCK_SPINS"
    const u32 INTERRUPTED "FC_INTERRUPTED"
    const u32 LOCK_SLICE_NS "FC_LOCK_SLICE_NS"
    const u32 LOCK_PATIENCE_NS "FC_LOCK_PATIENCE_NS"
    const u32 WAIT_SLICE_NS "FC_WAIT_SLICE_NS"
    const u32 QUEUE_NONE "FC_QUEUE_NONE"
    const u32 QUEUE_NEW "FC_QUEUE_NEW"
    const u32 QUEUE_SMALL "FC_QUEUE_SMALL"
    const u32 QUEUE_MAIN "FC_QUEUE_MAIN"
    const u32 QUEUES "FC_QUEUES"
    const u32 QUEUE_MASK "FC_QUEUE_MASK"
    const u32 HEAT_SHIFT "FC_HEAT_SHIFT"
    const u32 HEAT_MAX "FC_HEAT_MAX"
    const u32 VERDICT_SHIFT "FC_VERDICT_SHIFT"
    const u32 VERDICT_LEFT "FC_VERDICT_LEFT"
    const u32 VERDICT_LOST "FC_VERDICT_LOST"
    const u32 VERDICT_BEATEN "FC_VERDICT_BEATEN"
    const u32 VERDICT_MASK "FC_VERDICT_MASK"
    const u32 USED_SHIFT "FC_USED_SHIFT"
    const u32 RIVALS_FIRST "FC_RIVALS_FIRST"
    const u32 RIVALS_MAX "FC_RIVALS_MAX"
    const u32 SMALL_SHIFT "FC_SMALL_SHIFT"
    const u32 SMALL_FIRST "FC_SMALL_FIRST"
    const u32 SMALL_MIN "FC_SMALL_MIN"
    const u32 SMALL_MAX "FC_SMALL_MAX"
    const u32 SMALL_STEP "FC_SMALL_STEP"
    const u32 LEARN_SHARE "FC_LEARN_SHARE"
    const u32 EVENT "FC_EVENT"
    const u32 FADE "FC_FADE"
    const u32 WORTH "FC_WORTH"
    const u32 ASK_POOLS "FC_ASK_POOLS"
    const u32 ASK_TIMES "FC_ASK_TIMES"
    const u32 ASK_RIVALS "FC_ASK_RIVALS"
    const u32 USED_SHARE "FC_USED_SHARE"
    const u32 AGAIN_SHARE "FC_AGAIN_SHARE"
    const u32 FILLED_SHARE "FC_FILLED_SHARE"
    const u32 GHOST_WAYS "FC_GHOST_WAYS"
    const u32 GHOST_HEAT_SHIFT "FC_GHOST_HEAT_SHIFT"
    const u32 GHOST_TICK_SHIFT "FC_GHOST_TICK_SHIFT"
    const u32 GHOST_TICK_MASK "FC_GHOST_TICK_MASK"
    const u32 GHOST_PRINT_SHIFT "FC_GHOST_PRINT_SHIFT"
    const u32 TICK_SHIFT "FC_TICK_SHIFT"
    const u32 TICKS_SOON "FC_TICKS_SOON"
    const u32 TICKS_MAX "FC_TICKS_MAX"
    const u64 HASH_MULTIPLIER "FC_HASH_MULTIPLIER"
    const u64 HASH_MASK "FC_HASH_MASK"
    const u32 SCAN_BATCH "FC_SCAN_BATCH"
    const u32 LOOKS_MAX "FC_LOOKS_MAX"
    const u32 PINNED_MAX "FC_PINNED_MAX"
    const u32 SHRINK_TRIES "FC_SHRINK_TRIES"
    const u32 BLOCKS_MAX "FC_BLOCKS_MAX"
    const u32 NODE_SHIFT "FC_NODE_SHIFT"
    const u32 NODE_MASK "FC_NODE_MASK"
    const u32 NODE_COUNT "FC_NODE_COUNT"
    const u32 OBJECT_NEXT "FC_OBJECT_NEXT"
    const u32 OBJECT_FREE "FC_OBJECT_FREE"
    const u32 OBJECT_OWNER "FC_OBJECT_OWNER"
    const u32 NODE_INO "FC_NODE_INO"
    const u32 NODE_INDEX "FC_NODE_INDEX"
    const u32 NODE_LEVEL "FC_NODE_LEVEL"
    const u32 NODE_SLOTS "FC_NODE_SLOTS"
    const u32 NODE_SIZE "FC_NODE_SIZE"
    const u32 XA_INDEX_BITS "FC_XA_INDEX_BITS"
    const u64 XA_INDEX_MAX "FC_XA_INDEX_MAX"
    const u32 XA_HEIGHT_MAX "FC_XA_HEIGHT_MAX"
    const u32 XA_NODE "FC_XA_NODE"
    const u32 XA_OK "FC_XA_OK"
    const u32 XA_EXISTS "FC_XA_EXISTS"
    const u32 XA_NOMEM "FC_XA_NOMEM"
    const u32 XA_BROKEN "FC_XA_BROKEN"
    const u32 XA_CLEARED "FC_XA_CLEARED"
    const u32 XA_LEAKED "FC_XA_LEAKED"
    const u32 CHAIN_MAX "FC_CHAIN_MAX"
    const u32 TREE_GONE "FC_TREE_GONE"
    const u32 TREE_LOCKED "FC_TREE_LOCKED"
    const u32 BUCKETS_BATCH "FC_BUCKETS_BATCH"
    const u32 MAPPING_HEAD "FC_MAPPING_HEAD"
    const u32 MAPPING_INO "FC_MAPPING_INO"
    const u32 MAPPING_DIGEST_LO "FC_MAPPING_DIGEST_LO"
    const u32 MAPPING_DIGEST_HI "FC_MAPPING_DIGEST_HI"
    const u32 MAPPING_OBJECT_SIZE "FC_MAPPING_OBJECT_SIZE"
    const u32 MAPPING_FOLIOS "FC_MAPPING_FOLIOS"
    const u32 MAPPING_HEIGHT "FC_MAPPING_HEIGHT"
    const u32 MAPPING_ORDER "FC_MAPPING_ORDER"
    const u32 MAPPING_CHAIN "FC_MAPPING_CHAIN"
    const u32 MAPPING_KEY_LENGTH "FC_MAPPING_KEY_LENGTH"
    const u32 MAPPING_VERSION_LENGTH "FC_MAPPING_VERSION_LENGTH"
    const u32 MAPPING_KEY "FC_MAPPING_KEY"
    const u32 MAPPING_TEXT "FC_MAPPING_TEXT"
    const u32 MAPPING_TEXT_MAX "FC_MAPPING_TEXT_MAX"
    const u32 MAPPING_SIZE "FC_MAPPING_SIZE"
    const u32 NAME_WAYS "FC_NAME_WAYS"
    const u32 NAME_SHARE "FC_NAME_SHARE"
    const u32 NAME_SEQ "FC_NAME_SEQ"
    const u32 NAME_ID "FC_NAME_ID"
    const u32 NAME_ASKER "FC_NAME_ASKER"
    const u32 NAME_ASKER_LIFE "FC_NAME_ASKER_LIFE"
    const u32 NAME_ASKED "FC_NAME_ASKED"
    const u32 NAME_USED "FC_NAME_USED"
    const u32 NAME_DIGEST_LO "FC_NAME_DIGEST_LO"
    const u32 NAME_DIGEST_HI "FC_NAME_DIGEST_HI"
    const u32 NAME_KEY "FC_NAME_KEY"
    const u32 NAME_STATE "FC_NAME_STATE"
    const u32 NAME_SINCE "FC_NAME_SINCE"
    const u32 NAME_OBJECT_SIZE "FC_NAME_OBJECT_SIZE"
    const u32 NAME_TEXT "FC_NAME_TEXT"
    const u32 NAME_TEXT_MAX "FC_NAME_TEXT_MAX"
    const u32 NAME_DATA "FC_NAME_DATA"
    const u32 NAME_DATA_MAX "FC_NAME_DATA_MAX"
    const u32 NAME_SIZE "FC_NAME_SIZE"
    const u32 NAME_WAITERS "FC_NAME_WAITERS"
    const u32 NAME_UNKNOWN "FC_NAME_UNKNOWN"
    const u32 NAME_PRESENT "FC_NAME_PRESENT"
    const u32 NAME_ABSENT "FC_NAME_ABSENT"
    const u32 NAME_STATE_MASK "FC_NAME_STATE_MASK"
    const u32 NAME_VERSION_SHIFT "FC_NAME_VERSION_SHIFT"
    const u32 NAME_EXTRA_SHIFT "FC_NAME_EXTRA_SHIFT"
    const u32 NAME_TEXT_SHIFT "FC_NAME_TEXT_SHIFT"
    const u32 NAME_LENGTH_MASK "FC_NAME_LENGTH_MASK"
    const u32 NAME_NOMEM "FC_NAME_NOMEM"
    const u32 NAME_FRESH "FC_NAME_FRESH"
    const u32 NAME_TAKEN "FC_NAME_TAKEN"
    const u32 NAME_BUSY "FC_NAME_BUSY"
    const u32 NAME_AHEAD_NS "FC_NAME_AHEAD_NS"
    const u64 GRAB_ADDED "FC_GRAB_ADDED"
    const u64 GRAB_NOMEM "FC_GRAB_NOMEM"
    const u64 GRAB_GONE "FC_GRAB_GONE"
    const u64 INO_BUSY "FC_INO_BUSY"
    const u32 FIND_RETRIES "FC_FIND_RETRIES"
    const u32 GRAB_TRIES "FC_GRAB_TRIES"
    const u32 CLIENT_SIZE "FC_CLIENT_SIZE"
    const u32 CLIENT_PID "FC_CLIENT_PID"
    const u32 CLIENT_GENERATION "FC_CLIENT_GENERATION"
    const u32 CLIENT_STATE "FC_CLIENT_STATE"
    const u32 CLIENT_ATTACHED "FC_CLIENT_ATTACHED"
    const u32 CLIENT_PID_NAMESPACE "FC_CLIENT_PID_NAMESPACE"
    const u32 CLIENT_OP_SEQ "FC_CLIENT_OP_SEQ"
    const u32 CLIENT_OPS "FC_CLIENT_OPS"
    const u32 CLIENT_COUNTERS "FC_CLIENT_COUNTERS"
    const u32 CLIENT_UNNAMED "FC_CLIENT_UNNAMED"
    const u32 CLIENT_LEDGER "FC_CLIENT_LEDGER"
    const u32 OPS "FC_OPS"
    const u32 PINS "FC_PINS"
    const u32 SLOT_CLEAN "FC_SLOT_CLEAN"
    const u32 SLOT_ATTACHED "FC_SLOT_ATTACHED"
    const u32 SLOT_DEAD "FC_SLOT_DEAD"
    const u32 PIN_INTENT "FC_PIN_INTENT"
    const u32 PIN_OWNED "FC_PIN_OWNED"
    const u32 PIN_PFN "FC_PIN_PFN"
    const u32 GRACE_NS "FC_GRACE_NS"
    const u32 QUIET_TRIES "FC_QUIET_TRIES"
    const u32 REPAIR_LISTS "FC_REPAIR_LISTS"
    const u32 REPAIR_QUEUES "FC_REPAIR_QUEUES"
    const u32 REPAIR_SLABS "FC_REPAIR_SLABS"
    const u32 REPAIR_TABLE "FC_REPAIR_TABLE"
    const u32 REPAIR_TREES "FC_REPAIR_TREES"
    const u32 REPAIR_NAMES "FC_REPAIR_NAMES"
    const u32 COUNT_HITS "FC_COUNT_HITS"
    const u32 COUNT_MISSES "FC_COUNT_MISSES"
    const u32 COUNT_FILLS "FC_COUNT_FILLS"
    const u32 COUNT_FILL_BYTES "FC_COUNT_FILL_BYTES"
    const u32 COUNT_EVICTIONS "FC_COUNT_EVICTIONS"
    const u32 COUNT_BYPASSES "FC_COUNT_BYPASSES"
    const u32 COUNT_WAITS "FC_COUNT_WAITS"
    const u32 COUNT_READAHEAD "FC_COUNT_READAHEAD"
    const u32 COUNT_ERRORS "FC_COUNT_ERRORS"
    const u32 COUNT_STALLS "FC_COUNT_STALLS"
