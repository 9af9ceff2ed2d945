"""What ``make test`` explores of a list that is long: a part, always the same one. ``FOLIOCACHE_CHECK=whole`` explores all."""

import os
import zlib

WHOLE = os.environ.get("FOLIOCACHE_CHECK") == "whole"


def sampled(cases, one_in):
    """Return about one in ``one_in`` of the cases, by their text: a new case does not change which others are chosen."""
    return [case for case in cases if WHOLE or zlib.crc32(repr(case).encode()) % one_in == 0]
