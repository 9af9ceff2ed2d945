from . cimport atomics, kind, layout, page_ref, pagelist, slab, xarray
