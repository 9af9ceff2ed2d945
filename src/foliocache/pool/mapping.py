"""One object of a pool: its identity, the sizes of its units and folios, and its source. Hits are in ``lease``, misses in
``filler``."""

from __future__ import annotations

import hashlib
import html
import operator
import weakref
from functools import lru_cache
from typing import TYPE_CHECKING, Literal, NoReturn, SupportsIndex, TypeAlias

from ..filler.miss import Filler
from ..filler.readahead import Readahead
from ..filler.source import check
from ..mm import layout, xarray
from ..sizes import format_size, parse_count, parse_size, quoted
from .asynchronous import AsyncReads
from .window import Window, open_window

if TYPE_CHECKING:
    from ..filler.source import AsyncSource, Read, ReadInto, Source
    from .pool import Pool

UNIT_MAX = 64 << 10
UNITS_PER_OBJECT = 32
FOLIO_MAX = 1 << 20
FOLIOS_PER_POOL = 64
FIXED_PER_POOL = 4  # the pool has room for so many folios of the largest ``folio_size`` that a user may give
READAHEAD_MAX = 64 << 20  # bytes; and at most 1/READAHEAD_SHARE of the pool
READAHEAD_SHARE = 8
READAHEAD_ALONE = 4 << 20  # bytes, if the source is called one call at a time, by threads that wait for the data
KEY_AT = layout.KEY_SHIFT // 8  # the first byte of a digest that is the key's; those up to the 8th are

Size: TypeAlias = SupportsIndex | str


class Mapping(AsyncReads):
    """One object at one version, from `Pool.mapping`. Its bytes are leased, read, or mapped by a window.

    They are cached as *folios*, each of which is read, pinned and evicted as a whole. A folio is as large as the read that
    missed it, from 1 to 16 *units*, and at most 1 MiB; with ``folio_size``, all have the same size. The size of a unit depends
    on the object's size alone, so it is the same in every process: one page for small objects, up to 64 KiB for large ones.

    ``len(mapping)`` is the object's size in bytes, ``mapping[a:b]`` a copy of a range, ``memoryview(mapping)`` a view of all of
    it (`window`), and ``for piece in mapping.pieces()`` goes through it without a copy. To iterate over the mapping itself is a
    TypeError: it would make a number of each byte. A mapping pickles with its pool and its source.

    What takes the mapping itself as a buffer and is no ``memoryview`` (``numpy.ndarray(shape, buffer=mapping)``,
    ``torch.frombuffer(mapping)``, ``hashlib``) may use the bytes as long as it has the mapping. So all of the object is then
    pinned until the mapping ends; give ``memoryview(mapping)`` or a `window` where that matters.

    Attributes
    ----------
    pool : Pool
        The pool that caches it.
    key, version : str
        The object's key and version.
    size : int
        The object's size in bytes.
    unit_size : int
        Bytes of a unit: every folio begins at a multiple of it. The object's last unit may be shorter.
    folio_size : int or None
        The ``folio_size`` given to `Pool.mapping`, in bytes.
    readahead : int or None
        The ``readahead`` given to `Pool.mapping`, in bytes.
    """

    _is_tiered = True
    _is_whole = False
    _kept: Window | None = None  # of callers that keep the mapping, and not its buffer
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
        check(read, readinto, source)
        tiers = pool._agreed_tiers() if self._is_tiered and version else ()
        if tiers and any(one is not None for one in (read, readinto, source)):
            from ..tiers.around import around  # here: few pools have tiers

            digest, given = object_digest(key, size, version), (read, readinto, source)
            source = around(tiers, digest, key, lambda: pool.engine, given, pool._attachment)
            read = readinto = None
            source.mapping = weakref.ref(self)
        segment = pool._attachment.segment
        page_size, first = segment.page_size, segment.first_bytes
        usual = order = _order_for(size, page_size, first, self._units_per_object)
        self.folio_size: int | None = None if folio_size is None else _folio_size(folio_size, page_size, first)
        self.readahead: int | None = None if readahead is None else _readahead(readahead)
        if self.folio_size is not None:
            order = min(order, (self.folio_size // page_size).bit_length() - 1)
        unit = page_size << order
        units = -(-size // unit)
        if units > 1 << layout.XA_INDEX_BITS:
            raise ValueError(f"{quoted(key)} is too large: {quoted(size)} bytes are more than 2^{layout.XA_INDEX_BITS} units")
        digest = pool_digest(key, size, version, None if order == usual else unit, self._is_whole)
        share = segment.pool_bytes // READAHEAD_SHARE
        most = min(READAHEAD_MAX if concurrent else READAHEAD_ALONE, share)
        ahead = most if self.readahead is None else min(self.readahead, share)
        filler = Filler(key, pool, read, readinto, source, concurrent, Readahead(max(1, ahead // unit)))
        if self.folio_size is None:
            span = self._span(units, _span_for(unit, page_size, first))
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
        return f"<foliocache.Mapping {quoted(self.key)} version {quoted(self.version)}, {self.size} bytes>"

    def _repr_html_(self) -> str:
        """What a notebook shows: which parts are cached; the same text as ``repr`` if the pool is closed."""
        if self.pool.closed:
            return html.escape(repr(self))
        from ..observe import html as pictures  # here: only notebooks need it

        steps = min(pictures.STEPS, self.size)
        cached = [self.is_cached(self.size * (2 * n + 1) // (2 * steps), 1) for n in range(steps)]
        return pictures.mapping(self.key, self.version, self.size, self.unit_size, cached)

    def __iter__(self) -> NoReturn:
        raise TypeError(
            "a mapping is not iterable, as that would give its bytes one by one, as numbers; "
            "use mapping.pieces() for its bytes in leases, or memoryview(mapping)"
        )

    def __reversed__(self) -> NoReturn:
        self.__iter__()

    def __contains__(self, value: object) -> NoReturn:
        self.__iter__()

    def __reduce__(self) -> tuple[object, ...]:
        options = self.folio_size, self.readahead
        *given, concurrent = self.filler.source
        given = getattr(given[2], "given", given)  # without the tiers, which the pool has
        return Mapping, (self.pool, self.key, self.size, self.version, *given, concurrent, *options)

    def _span(self, units: int, most: int) -> int:
        """Return log2 of the number of units that a folio of this object may have, at most ``most``."""
        return most

    def window(
        self, offset: SupportsIndex = 0, length: SupportsIndex | None = None, *, writable: Literal["copy"] | None = None
    ) -> Window:
        """Map a range of the object as one contiguous buffer, without a copy, even if it is in several folios.

        Parameters
        ----------
        offset : int
            The first byte.
        length : int, optional
            How many bytes, cut off at the end of the object. By default all up to the end.
        writable : {"copy"}, optional
            The buffer may be written to. Each page that is written becomes a copy, which only this process sees, and which is
            lost when the window is closed.

        Returns
        -------
        Window
            All folios of the range stay pinned until it is closed.

        Raises
        ------
        FoliocacheError
            The pool has no room for all folios of the range at once, or has been closed.
        SourceError
            As in `lease`.
        """
        return open_window(self, offset, length, writable)


def _order_for(size: int, page_size: int, pool_bytes: int, units: int = UNITS_PER_OBJECT) -> int:
    """Return log2 of the pages of a unit: the object gets at most ``units`` units, if a unit may be that large (UNIT_MAX, and a
    small part of the pool)."""
    most = min(UNIT_MAX, _folio_max(page_size, pool_bytes))
    order = 0
    while page_size << (order + 1) <= most and (page_size << order) * units < size:
        order += 1
    return order


@lru_cache
def _span_for(unit: int, page_size: int, pool_bytes: int) -> int:
    """Return log2 of the largest number of units, of ``unit`` bytes each, that a folio may have."""
    return min(layout.SPAN_MAX, max(_folio_max(page_size, pool_bytes) // unit, 1).bit_length() - 1)


@lru_cache
def _folio_max(page_size: int, pool_bytes: int) -> int:
    return min(FOLIO_MAX, pool_bytes // FOLIOS_PER_POOL, page_size << layout.MAX_ORDER)


def _folio_size(wanted: Size, page_size: int, pool_bytes: int) -> int:
    """Return a user's ``folio_size`` in bytes. Raises ValueError."""
    found, most = parse_size(wanted, "folio_size"), min(FOLIO_MAX, pool_bytes // FIXED_PER_POOL, page_size << layout.MAX_ORDER)
    most = 1 << max(most, page_size).bit_length() - 1
    if found & (found - 1) or not page_size <= found <= most:
        limits = f"from {format_size(page_size)}, a page of this pool, to {format_size(most)}"
        raise ValueError(f"folio_size must be a power of two {limits}; not {quoted(wanted)}")
    return found


def _readahead(wanted: Size) -> int:
    """Return a user's ``readahead`` in bytes. Raises ValueError."""
    if isinstance(wanted, str) or parse_count(wanted, "readahead", "bytes or a string such as '8MiB'"):
        return parse_size(wanted, "readahead")
    return 0


def object_digest(key: str, size: int, version: str) -> bytes:
    """Return the digest by which tiers find an object at one version: 16 bytes."""
    return hashlib.blake2b(_framed(str(size)) + _framed(key) + _framed(version), digest_size=16).digest()


def pool_digest(key: str, size: int, version: str, unit: int | None = None, is_whole: bool = False) -> bytes:
    """Return the digest by which a pool finds an object at one version: 16 bytes. 95 bits are of all of it; 32 are of the key
    alone, so that the ghosts of one version are found by another, and one is ``is_whole``: it is gone without any part of it
    (``mm.ghost``). unit: bytes of its units, if that is not the usual size; the pool then treats it as another object."""
    named = _framed(key)
    whole = _framed(str(size)) + named + _framed(version) + (b"" if unit is None else _framed(str(unit)))
    digest = hashlib.blake2b(whole, digest_size=16).digest()
    kind = digest[KEY_AT - 1] & 0x7F | is_whole << 7
    return digest[: KEY_AT - 1] + bytes((kind,)) + hashlib.blake2b(named, digest_size=8).digest()[KEY_AT:] + digest[8:]


def key_digest(key: str) -> bytes:
    """Return the digest by which all versions of an object are found: 8 bytes. Raises ValueError if key is not a string."""
    return hashlib.blake2b(_framed(_plain(key, "key")), digest_size=8).digest()


def _plain(text: str, what: str) -> str:
    """Return text as a plain str, also if it is of a subclass (an Enum, a numpy.str_). Raises ValueError if it is no string."""
    if not isinstance(text, str):
        raise ValueError(f"the {what} of an object must be a string, not {quoted(text)}")
    return str.__str__(text)


def _size_of(key: str, size: SupportsIndex) -> int:
    """Return an object's size as an int. Raises ValueError if it is not a number of bytes."""
    try:
        number = operator.index(size)
    except TypeError:
        number = -1
    if isinstance(size, bool) or number < 0:
        raise ValueError(f"the size of {quoted(key)} must be a number of bytes, not {quoted(size)}")
    return number


def _framed(text: str) -> bytes:
    """Return a string with its length, so that different rows of strings are different bytes. Lone surrogates are kept."""
    encoded = text.encode("utf-8", "surrogatepass")
    return len(encoded).to_bytes(8, "little") + encoded


def _texts(key: str, version: str) -> tuple[bytes, bytes]:
    """Return key and version as the segment keeps them to show to people, cut to the room there. Only the digest identifies
    an object."""
    version_bytes = _cut(version, layout.MAPPING_TEXT_MAX // 4)
    return _cut(key, layout.MAPPING_TEXT_MAX - len(version_bytes)), version_bytes


def _cut(text: str, most: int) -> bytes:
    """Return the first whole characters of text, at most ``most`` bytes. Surrogates (in file names that are not text) are
    kept."""
    data = text.encode("utf-8", "surrogatepass")
    if len(data) > most:
        while data[most] & 0xC0 == 0x80:
            most -= 1
    return data[:most]
