"""Units of a mapping: where folios may begin."""


def offsets(mapping):
    """Return where each unit begins."""
    return range(0, mapping.size, mapping.unit_size)


def unit(mapping, index):
    """Return a lease on one unit, whatever folio it is in."""
    return mapping.lease(index * mapping.unit_size, mapping.unit_size)


def units(mapping):
    """Return a lease on each unit."""
    return [mapping.lease(offset, mapping.unit_size) for offset in offsets(mapping)]


def is_cached(mapping, index):
    """Return True if a unit is cached."""
    return mapping.is_cached(index * mapping.unit_size, 1)
