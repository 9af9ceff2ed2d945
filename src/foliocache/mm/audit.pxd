from . cimport atomics, client, flags, kind, layout, page_ref, pagelist, pagetable, slab, wait, xarray
