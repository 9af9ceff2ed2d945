"""The checksum of the bytes that tiers keep: CRC-32C, by the processor's instruction."""

from __future__ import annotations

from collections.abc import Callable


def crc32c_function() -> Callable[..., int]:
    """Return the function of (bytes, the CRC of what comes before them = 0). Raises ImportError if its package is not
    installed."""
    try:
        from crc32c import crc32c
    except ImportError as error:
        raise ImportError("tiers need the package crc32c: pip install 'foliocache[disk]'") from error
    return crc32c
