from . cimport atomics, client, flags, layout, page_ref, page_type, pagelist, pagetable, robust_lock, slab, xarray
