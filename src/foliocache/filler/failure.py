"""Records of why a source failed, for the clients that wait for the same bytes.

A filler whose source raises leaves a record in the page that it could not fill; that page is removed from its mapping and gets
no content until it is freed (``mm.fill.explain``). A client that slept on the page has it pinned, finds the record, and raises
instead of calling the source again: one failure answers all clients that wait for it. A later reader calls the source again.

A record describes a failure of the *origin*. Failures that concern only the process that called the source are not recorded (it
was interrupted or cancelled, is out of memory or descriptors, lacks a permission that others may have, was forked, or is
exiting); one of the waiting clients fills instead. Any process may have written anything to the page, so a record is checked
when it is read.
"""

import errno
import json
import struct
import sys
import threading
import typing
import zlib

from ..errors import ChangedError, FoliocacheError, SourceError

RECORD_MAX = 2048  # less than the smallest page
KIND_MAX = 100  # characters of a class's name; in JSON, each takes 12 bytes at most
_HEADER = struct.Struct("<II")  # the number of bytes of JSON that follow, and their CRC
_OWN_EXCEPTIONS = (
    MemoryError,
    RecursionError,
    PermissionError,
    BlockingIOError,
    InterruptedError,
)
_NAME = type.__dict__["__name__"]  # what no metaclass changes
_OWN_ERRNOS = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS, errno.EACCES, errno.EPERM, errno.EAGAIN, errno.EINTR}


class Failure(typing.NamedTuple):
    """A record: ``kind`` is the name of the exception's class, ``errno`` a number or None, ``text`` its message."""

    kind: str
    errno: int | None
    text: str


def record(error: BaseException) -> bytes | None:
    """Return an exception as a record of at most RECORD_MAX bytes, or None if it does not concern the origin."""
    number = _told(lambda: getattr(error, "errno", None))
    number = number if type(number) is int and 0 < number < 1 << 31 else None
    if _is_our_own(error) or number in _OWN_ERRNOS:
        return None
    kind = _NAME.__get__(type(error))[:KIND_MAX]
    text = (_told(lambda: str(error)) or "")[:RECORD_MAX]
    while True:
        body = json.dumps(Failure(kind, number, text)).encode()
        if len(body) <= RECORD_MAX - _HEADER.size:
            return _HEADER.pack(len(body), zlib.crc32(body)) + body
        text = text[: len(text) // 2]


def read(page: bytes) -> Failure | None:
    """Return the Failure at the beginning of a page, or None if there is no valid record."""
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
    if _is_cancelled(error):
        return True
    return sys.is_finalizing() or (isinstance(error, FoliocacheError) and not isinstance(error, (ChangedError, SourceError)))


def _is_cancelled(error: Exception) -> bool:
    """Return True for the CancelledError of concurrent.futures, which is imported already if there is such an error."""
    futures = sys.modules.get("concurrent.futures._base")
    return isinstance(error, getattr(futures, "CancelledError", ()))


def _told(tell: typing.Callable[[], typing.Any]) -> typing.Any:
    """Return what an exception tells of itself; None if it raises another one instead."""
    try:
        return tell()
    except Exception:
        return None
