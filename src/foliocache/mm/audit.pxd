from . cimport atomics, layout, page_ref, pagelist, slab, xarray
