from cpython.buffer cimport Py_buffer, PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport uint32_t as u32, uint64_t as u64


cdef extern from "atomics.h" nogil:
    ctypedef size_t mem_t

    ctypedef struct fc_mem:
        char *base
        const char *ro
        u64 size
        u64 memmap
        u64 data
        u64 clients
        u64 buckets
        u64 ghosts
        u64 names
        u64 backed
        u32 npages
        u32 page_shift
        u32 chunk_shift
        u32 nclients
        u32 nbuckets
        u32 nghosts
        u32 nnames
        int fd
        u32 stalled
        u32 stalled_at
        u32 populate
        u32 fenced
        bint (*room)(void *asked, u64 n) noexcept nogil
        void (*forget)(void *asked) noexcept nogil
        void *asked

    u64 memmap "fc_memmap" (mem_t mem)
    u64 data "fc_data" (mem_t mem)
    u64 clients "fc_clients" (mem_t mem)
    u64 buckets "fc_buckets" (mem_t mem)
    u64 ghosts "fc_ghosts" (mem_t mem)
    u64 names "fc_names" (mem_t mem)
    u64 backed "fc_backed" (mem_t mem)
    u32 npages "fc_npages" (mem_t mem)
    u32 npages_max "fc_npages_max" (mem_t mem)
    u32 page_shift "fc_page_shift" (mem_t mem)
    u32 chunk_shift "fc_chunk_shift" (mem_t mem)
    u32 populate "fc_populate" (mem_t mem)
    u32 nclients "fc_nclients" (mem_t mem)
    u32 nclients_max "fc_nclients_max" (mem_t mem)
    u32 nbuckets "fc_nbuckets" (mem_t mem)
    u32 nghosts "fc_nghosts" (mem_t mem)
    u32 nnames "fc_nnames" (mem_t mem)
    u64 folio_at "fc_folio_at" (mem_t mem, u32 pfn)
    u64 page_at "fc_page_at" (mem_t mem, u32 pfn)

    u32 load_relaxed "fc_load_relaxed" (mem_t mem, u64 off)
    u32 load_acquire "fc_load_acquire" (mem_t mem, u64 off)
    u32 load_seq_cst "fc_load_seq_cst" (mem_t mem, u64 off)
    u64 load_relaxed64 "fc_load_relaxed64" (mem_t mem, u64 off)
    u64 load_acquire64 "fc_load_acquire64" (mem_t mem, u64 off)
    void store_relaxed "fc_store_relaxed" (mem_t mem, u64 off, u32 value)
    void store_release "fc_store_release" (mem_t mem, u64 off, u32 value)
    void store_seq_cst "fc_store_seq_cst" (mem_t mem, u64 off, u32 value)
    void store_relaxed64 "fc_store_relaxed64" (mem_t mem, u64 off, u64 value)
    void store_release64 "fc_store_release64" (mem_t mem, u64 off, u64 value)

    u32 fetch_add_relaxed "fc_fetch_add_relaxed" (mem_t mem, u64 off, u32 value)
    u32 fetch_add_acquire "fc_fetch_add_acquire" (mem_t mem, u64 off, u32 value)
    u32 fetch_add_release "fc_fetch_add_release" (mem_t mem, u64 off, u32 value)
    u32 fetch_add_acq_rel "fc_fetch_add_acq_rel" (mem_t mem, u64 off, u32 value)
    u32 fetch_add_seq_cst "fc_fetch_add_seq_cst" (mem_t mem, u64 off, u32 value)
    u32 fetch_sub_relaxed "fc_fetch_sub_relaxed" (mem_t mem, u64 off, u32 value)
    u32 fetch_sub_acquire "fc_fetch_sub_acquire" (mem_t mem, u64 off, u32 value)
    u32 fetch_sub_release "fc_fetch_sub_release" (mem_t mem, u64 off, u32 value)
    u32 fetch_sub_acq_rel "fc_fetch_sub_acq_rel" (mem_t mem, u64 off, u32 value)
    u32 fetch_sub_seq_cst "fc_fetch_sub_seq_cst" (mem_t mem, u64 off, u32 value)
    u32 fetch_or_relaxed "fc_fetch_or_relaxed" (mem_t mem, u64 off, u32 value)
    u32 fetch_or_acquire "fc_fetch_or_acquire" (mem_t mem, u64 off, u32 value)
    u32 fetch_or_release "fc_fetch_or_release" (mem_t mem, u64 off, u32 value)
    u32 fetch_or_acq_rel "fc_fetch_or_acq_rel" (mem_t mem, u64 off, u32 value)
    u32 fetch_or_seq_cst "fc_fetch_or_seq_cst" (mem_t mem, u64 off, u32 value)
    u32 fetch_and_relaxed "fc_fetch_and_relaxed" (mem_t mem, u64 off, u32 value)
    u32 fetch_and_acquire "fc_fetch_and_acquire" (mem_t mem, u64 off, u32 value)
    u32 fetch_and_release "fc_fetch_and_release" (mem_t mem, u64 off, u32 value)
    u32 fetch_and_acq_rel "fc_fetch_and_acq_rel" (mem_t mem, u64 off, u32 value)
    u32 fetch_and_seq_cst "fc_fetch_and_seq_cst" (mem_t mem, u64 off, u32 value)
    u32 exchange_relaxed "fc_exchange_relaxed" (mem_t mem, u64 off, u32 value)
    u32 exchange_acquire "fc_exchange_acquire" (mem_t mem, u64 off, u32 value)
    u32 exchange_release "fc_exchange_release" (mem_t mem, u64 off, u32 value)
    u32 exchange_acq_rel "fc_exchange_acq_rel" (mem_t mem, u64 off, u32 value)
    u32 exchange_seq_cst "fc_exchange_seq_cst" (mem_t mem, u64 off, u32 value)

    u32 cmpxchg_relaxed "fc_cmpxchg_relaxed" (mem_t mem, u64 off, u32 old, u32 new)
    u32 cmpxchg_acquire "fc_cmpxchg_acquire" (mem_t mem, u64 off, u32 old, u32 new)
    u32 cmpxchg_release "fc_cmpxchg_release" (mem_t mem, u64 off, u32 old, u32 new)
    u32 cmpxchg_acq_rel "fc_cmpxchg_acq_rel" (mem_t mem, u64 off, u32 old, u32 new)
    u32 cmpxchg_seq_cst "fc_cmpxchg_seq_cst" (mem_t mem, u64 off, u32 old, u32 new)

    void fence_acquire "fc_fence_acquire" ()
    void fence_release "fc_fence_release" ()
    void fence_acq_rel "fc_fence_acq_rel" ()
    void fence_seq_cst "fc_fence_seq_cst" ()

    u32 read32 "fc_read32" (mem_t mem, u64 off)
    void write32 "fc_write32" (mem_t mem, u64 off, u32 value)
    u64 read64 "fc_read64" (mem_t mem, u64 off)
    void write64 "fc_write64" (mem_t mem, u64 off, u64 value)
    void write_bytes "fc_write_bytes" (mem_t mem, u64 off, const char *data, u32 n)
    void copy_in_relaxed "fc_copy_in_relaxed" (mem_t mem, u64 off, const char *data, u32 n)
    void copy_out_relaxed "fc_copy_out_relaxed" (mem_t mem, u64 off, char *data, u32 n)
    void record32 "fc_record32" (mem_t mem, u64 off, u32 value)
    void write_once "fc_write_once" (mem_t mem, u64 off, u32 value)
    u32 read_once "fc_read_once" (mem_t mem, u64 off)
    void asymmetric_fence_light "fc_asymmetric_fence_light" (mem_t mem)
    void asymmetric_fence_heavy "fc_asymmetric_fence_heavy" (mem_t mem)
    int membarrier_register "fc_membarrier_register" ()
    bint client_alive "fc_client_alive" (mem_t mem, u32 client)
    bint is_stalled "fc_is_stalled" (mem_t mem, u32 client, u64 busy)
    u32 stalled_by "fc_stalled_by" (mem_t mem)
    void set_stalled "fc_set_stalled" (mem_t mem, u32 client, u64 busy)
    void count64 "fc_count64" (mem_t mem, u64 off, u64 n)

    int fallocate "fc_fallocate" (mem_t mem, u64 off, u64 n)
    int punch "fc_punch" (mem_t mem, u64 off, u64 n)
    int futex_wait "fc_futex_wait" (mem_t mem, u64 off, u32 expected, u64 timeout_ns)
    int futex_wake "fc_futex_wake" (mem_t mem, u64 off, u32 n)
    void cpu_relax "fc_cpu_relax" ()
    u64 now_ns "fc_now_ns" ()


cdef class Memory:
    cdef fc_mem m
    cdef Py_buffer rw
    cdef Py_buffer ro
