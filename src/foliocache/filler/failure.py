"""Why a source failed, written down for those who wait for the same bytes.

A filler whose source raises leaves a record in the page that it could not fill, which has left its mapping and will never be
anybody's content (``mm.fill.explain``). Whoever slept on that page has it pinned, finds the record, and raises instead of
asking the source once more: one failure answers all who wait for it, at once. Whoever comes later asks anew.

A record tells of the *origin*. What only says something about the process that was asking (it was interrupted or cancelled, is
out of memory or descriptors, may not read what another may, was forked or is on its way out) is not written down, and one of
those who wait takes its place. Any process may have written anything to the page, so what is read is checked.
"""

import concurrent.futures
import errno
import json
import struct
import sys
import threading
import typing
import zlib

from ..errors import ChangedError, FoliocacheError, SourceError

RECORD_MAX = 2048  # less than the smallest page
_HEADER = struct.Struct("<II")  # bytes of JSON behind it, and their CRC
_OWN_EXCEPTIONS = (
    MemoryError,
    RecursionError,
    PermissionError,
    BlockingIOError,
    InterruptedError,
    concurrent.futures.CancelledError,
)
_OWN_ERRNOS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EACCES, errno.EPERM, errno.EAGAIN, errno.EINTR}


class Failure(typing.NamedTuple):
    """``kind`` is the name of the exception's class; ``errno`` a number or None."""

    kind: str
    errno: int | None
    text: str


def record(error: BaseException) -> bytes | None:
    """An exception as at most RECORD_MAX bytes; None for one that says nothing about the origin."""
    number = getattr(error, "errno", None)
    number = number if type(number) is int and 0 < number < 1 << 31 else None
    if _is_our_own(error) or number in _OWN_ERRNOS:
        return None
    text = _text_of(error)
    while True:
        body = json.dumps(Failure(type(error).__name__, number, text)).encode()
        if len(body) <= RECORD_MAX - _HEADER.size:
            return _HEADER.pack(len(body), zlib.crc32(body)) + body
        text = text[: len(text) // 2]


def read(page: bytes) -> Failure | None:
    """The Failure that a page begins with; None if that is something else."""
    length, check = _HEADER.unpack_from(page)
    body = page[_HEADER.size : _HEADER.size + length]
    if not 0 < length == len(body) or zlib.crc32(body) != check:
        return None
    try:
        kind, number, text = json.loads(body)
    except (ValueError, TypeError, RecursionError):
        return None
    if not isinstance(kind, str) or not isinstance(text, str) or not (number is None or type(number) is int):
        return None
    return Failure(kind, number, text)


def _is_our_own(error: BaseException) -> bool:
    if not isinstance(error, Exception) or isinstance(error, _OWN_EXCEPTIONS) or not threading.main_thread().is_alive():
        return True
    return sys.is_finalizing() or (isinstance(error, FoliocacheError) and not isinstance(error, (ChangedError, SourceError)))


def _text_of(error: BaseException) -> str:
    try:
        return str(error)[:RECORD_MAX]
    except Exception:
        return ""
