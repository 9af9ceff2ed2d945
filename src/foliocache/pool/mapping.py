"""One object of a pool: its identity, the sizes of its units and folios, and where its bytes come from. Hits are in ``lease``,
misses in ``filler``."""

from __future__ import annotations

import hashlib
import operator
from typing import TYPE_CHECKING, Literal, SupportsIndex, TypeAlias

from ..filler.miss import Filler
from ..filler.readahead import Readahead
from ..mm import layout, xarray
from ..sizes import format_size, parse_count, parse_size
from .asynchronous import AsyncReads
from .window import Window, open_window

if TYPE_CHECKING:
    from ..filler.source import AsyncSource, Read, ReadInto, Source
    from .pool import Pool

UNIT_MAX = 64 << 10
UNITS_PER_OBJECT = 32
FOLIO_MAX = 1 << 20
FOLIOS_PER_POOL = 64
FIXED_PER_POOL = 4  # where the user says how large they are
READAHEAD_MAX = 64 << 20  # bytes, and one READAHEAD_SHARE-th of the pool
READAHEAD_SHARE = 8
READAHEAD_ALONE = 4 << 20  # where the source is called one at a time, by those who want the data

Size: TypeAlias = SupportsIndex | str


class Mapping(AsyncReads):
    """One object at one version, from `Pool.mapping`: its bytes, which are leased, read or mapped.

    They are cached as *folios*, which are read, pinned and evicted whole. A folio is as large as the read that has missed it,
    from one *unit* to 16 of them, and 1 MiB at most; ``folio_size`` fixes that. The unit follows from the object's size, the
    same in every process: a page for small objects, up to 64 KiB for big ones.

    ``len(mapping)`` is the object's size, ``mapping[a:b]`` a copy of a range. A mapping pickles with its pool and its source.

    Attributes
    ----------
    pool : Pool
        Where it is cached.
    key, version : str
        What it is called.
    size : int
        Its length in bytes.
    unit_size : int
        Bytes of a unit: every folio begins at a multiple of it. The object's last unit is shorter.
    folio_size : int or None
        What was given for it.
    readahead : int or None
        What was given for it.
    """

    __iter__ = None  # of bytes one by one it would be slow, and `pieces` says what is meant
    _units_per_object = UNITS_PER_OBJECT

    def __init__(
        self,
        pool: Pool,
        key: str,
        size: SupportsIndex,
        version: str = "",
        read: Read | None = None,
        readinto: ReadInto | None = None,
        source: Source | AsyncSource | None = None,
        concurrent: bool = False,
        folio_size: Size | None = None,
        readahead: Size | None = None,
    ) -> None:
        key, version = _plain(key, "key"), _plain(version, "version")
        size = _size_of(key, size)
        usual = order = _order_for(size, pool.page_size, pool.pool_bytes, self._units_per_object)
        self.folio_size: int | None = None if folio_size is None else _folio_size(folio_size, pool.page_size, pool.pool_bytes)
        self.readahead: int | None = None if readahead is None else _readahead(readahead)
        if self.folio_size is not None:
            order = min(order, (self.folio_size // pool.page_size).bit_length() - 1)
        unit = pool.page_size << order
        units = -(-size // unit)
        if units > 1 << layout.XA_INDEX_BITS:
            raise ValueError(f"{key!r} is too large: {size} bytes are more than 2^{layout.XA_INDEX_BITS} units")
        digest = object_digest(key, size, version, None if order == usual else unit)
        most = min(READAHEAD_MAX if concurrent else READAHEAD_ALONE, pool.pool_bytes // READAHEAD_SHARE)
        ahead = most if self.readahead is None else min(self.readahead, pool.pool_bytes // READAHEAD_SHARE)
        filler = Filler(key, pool, read, readinto, source, concurrent, Readahead(max(1, ahead // unit)))
        if self.folio_size is None:
            span = _span_for(unit, pool.page_size, pool.pool_bytes)
        else:
            span = min(layout.SPAN_MAX, (self.folio_size // unit).bit_length() - 1)
        super().__init__(
            pool._attachment,
            filler,
            size,
            order,
            xarray.height_for(units),
            digest,
            key_digest(key),
            *_texts(key, version),
            span,
            self.folio_size is not None,
            max(unit, most // 2),
        )
        self.pool = pool
        self.key = key
        self.version = version

    def __repr__(self) -> str:
        return f"<foliocache.Mapping {self.key!r} version {self.version!r}, {self.size} bytes>"

    def __reduce__(self) -> tuple[object, ...]:
        options = self.folio_size, self.readahead
        return Mapping, (self.pool, self.key, self.size, self.version, *self.filler.source, *options)

    def window(
        self, offset: SupportsIndex = 0, length: SupportsIndex | None = None, *, writable: Literal["copy"] | None = None
    ) -> Window:
        """A range of the object as one contiguous buffer, without a copy however many folios it lies in.

        Parameters
        ----------
        offset : int
            The first byte.
        length : int, optional
            How many, cut off at the end of the object. By default up to the end.
        writable : {"copy"}, optional
            The buffer may be written to. What is written is this process's alone, by pages, and gone with the window.

        Returns
        -------
        Window
            The folios, mapped side by side. All of them stay pinned until it is closed.

        Raises
        ------
        FoliocacheError
            The pool has no room for all of them at once, or has been closed.
        SourceError
            As in `lease`.
        """
        return open_window(self, offset, length, writable)


def _order_for(size: int, page_size: int, pool_bytes: int, units: int = UNITS_PER_OBJECT) -> int:
    """An object is cut into about so many units, within a page and UNIT_MAX, and within a small part of the pool."""
    most = min(UNIT_MAX, _folio_max(page_size, pool_bytes))
    order = 0
    while page_size << (order + 1) <= most and (page_size << order) * units < size:
        order += 1
    return order


def _span_for(unit: int, page_size: int, pool_bytes: int) -> int:
    """Log2 of how many units of so many bytes a folio may have."""
    return min(layout.SPAN_MAX, max(_folio_max(page_size, pool_bytes) // unit, 1).bit_length() - 1)


def _folio_max(page_size: int, pool_bytes: int) -> int:
    return min(FOLIO_MAX, pool_bytes // FOLIOS_PER_POOL, page_size << layout.MAX_ORDER)


def _folio_size(wanted: Size, page_size: int, pool_bytes: int) -> int:
    """What a user gives for ``folio_size``, in bytes. Raises ValueError."""
    found, most = parse_size(wanted, "folio_size"), min(FOLIO_MAX, pool_bytes // FIXED_PER_POOL, page_size << layout.MAX_ORDER)
    most = 1 << max(most, page_size).bit_length() - 1
    if found & (found - 1) or not page_size <= found <= most:
        limits = f"from {format_size(page_size)}, a page of this pool, to {format_size(most)}"
        raise ValueError(f"folio_size must be a power of two {limits}; not {wanted!r}")
    return found


def _readahead(wanted: Size) -> int:
    """What a user gives for ``readahead``, in bytes. Raises ValueError."""
    if isinstance(wanted, str) or parse_count(wanted, "readahead", "bytes or a string such as '8MiB'"):
        return parse_size(wanted, "readahead")
    return 0


def object_digest(key: str, size: int, version: str, unit: int | None = None) -> bytes:
    """What an object at one version is found by: 16 bytes. unit: of so many bytes, if they are not the usual ones; then it is
    another object to the pool."""
    return _digest(16, str(size), key, version, *([] if unit is None else [str(unit)]))


def key_digest(key: str) -> bytes:
    """What an object is found by when its version does not matter: 8 bytes. Raises ValueError for what is no string."""
    return _digest(8, _plain(key, "key"))


def _plain(text: str, what: str) -> str:
    """A string, as the characters that it has: those of a subclass of str (an Enum, a numpy.str_), too."""
    if not isinstance(text, str):
        raise ValueError(f"the {what} of an object must be a string, not {text!r}")
    return str.__str__(text)


def _size_of(key: str, size: SupportsIndex) -> int:
    """A number of bytes, as an int. Raises ValueError for what is none."""
    try:
        number = operator.index(size)
    except TypeError:
        number = -1
    if isinstance(size, bool) or number < 0:
        raise ValueError(f"the size of {key!r} must be a number of bytes, not {size!r}")
    return number


def _digest(size: int, *texts: str) -> bytes:
    """One of ``size`` bytes, of strings of which nothing is lost: each with its length, lone surrogates as they are."""
    digest = hashlib.blake2b(digest_size=size)
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little") + encoded)
    return digest.digest()


def _texts(key: str, version: str) -> tuple[bytes, bytes]:
    """Key and version as the segment keeps them for people: cut to what fits. Identity is the digest alone."""
    version_bytes = _cut(version, layout.MAPPING_TEXT_MAX // 4)
    return _cut(key, layout.MAPPING_TEXT_MAX - len(version_bytes)), version_bytes


def _cut(text: str, most: int) -> bytes:
    """The text's first whole characters that have up to ``most`` bytes. Surrogates (file names that are no text) are kept."""
    data = text.encode("utf-8", "surrogatepass")
    if len(data) > most:
        while data[most] & 0xC0 == 0x80:
            most -= 1
    return data[:most]
