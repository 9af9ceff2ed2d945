from . cimport atomics, backing, client, flags, layout, names, page_ref, page_type
from . cimport pagelist, pagetable, robust_lock, slab, xarray
