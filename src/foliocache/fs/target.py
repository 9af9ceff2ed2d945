"""What the cache asks of a target filesystem: who is this object now, and give me its bytes while it still is that.

A shared cache must not mix two versions of one object: a page that is read after the origin changed, but filed under the
version that was seen at open, would be wrong for every process of the machine until it ages out. So each read proves that
its bytes belong to the :class:`Identity` they are filed under, with the cheapest proof that the target has:

============  =========================================  ==========================================================
target        identity                                   proof
============  =========================================  ==========================================================
local files   device, inode, size, mtime, ctime in ns    ``fstat`` of the descriptor that was read
http, https   ETag, else Last-Modified, else ``ukey``    the same headers of the very response that carried the bytes
s3            ETag (and VersionId)                       ``If-Match``, checked by the endpoint
all others    the fields of ``info`` that tell versions  a second ``info`` after the read
              apart, else ``ukey``
============  =========================================  ==========================================================

A proof that fails is :class:`ChangedError`, ESTALE, as on NFS.
"""

from __future__ import annotations

import errno
import hashlib
import inspect
import io
import json
import os
import secrets
import stat
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.asyn import sync
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

# Fields of info() that change with the content: first those that name it, then those that only date it.
_CONTENT = (
    "ETag",
    "etag",
    "e_tag",
    "VersionId",
    "version_id",
    "generation",
    "md5Hash",
    "Content-MD5",
    "Digest",
    "content_md5",
    "md5",
    "sha",
    "sha256",
    "hex",
    "checksum",
    "xet_hash",
    "blob_id",
    "CRC",
)
_DATE = (
    "LastModified",
    "Last-Modified",
    "last_modified",
    "mtime",
    "modified",
    "modify",
    "updated",
    "timeModified",
    "modificationTime",
    "date_time",
    "created",
)

# Options that say how to talk to a place, or as whom, but not which place. Two processes that differ in them alone share
# their pages; each must still pass the target's own info() with its own credentials before it is given one.
_MANNERS = frozenset(
    {
        "key",
        "secret",
        "token",
        "username",
        "password",
        "anon",
        "account_key",
        "sas_token",
        "credential",
        "profile",
        "session",
        "asynchronous",
        "loop",
        "batch_size",
        "skip_instance_cache",
        "use_listings_cache",
        "listings_expiry_time",
        "max_paths",
        "block_size",
        "default_block_size",
        "cache_type",
        "default_cache_type",
        "cache_options",
        "default_fill_cache",
        "max_concurrency",
        "requester_pays",
        "retries",
        "timeout",
        "auto_mkdir",
        "config_kwargs",
    }
)

_KEY_MAX, _VERSION_MAX = 280, 90  # bytes of text that the pool keeps of each object, to list and to forget it by
_TICK_NS = 20_000_000  # the coarsest clock that Linux stamps files with ticks every 10 ms


class ChangedError(OSError):
    """The origin's object is not the one any more that was opened."""

    def __init__(self, path: str) -> None:
        super().__init__(errno.ESTALE, "The object changed at its origin since it was opened; open it again", path)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.filename,)


@dataclass(frozen=True, slots=True)
class Identity:
    """One object at one version, as its origin tells versions apart."""

    size: int | None  # None: the origin does not say
    version: str
    etag: str | None = None  # what a response must repeat, where the target has such a thing
    modified: str | None = None

    @property
    def cacheable(self) -> bool:
        """Objects of unknown size have no pages to number, and empty ones none at all: the target reads them each time."""
        return bool(self.size)


class Target:
    """Any fsspec filesystem; what is better known about some of them is in the subclasses."""

    into = False  # what reader() returns takes (offset, length); if True: (offset, buffer)
    aliases = False  # whether one object may have several names (links, "..")

    def __init__(self, fs: AbstractFileSystem) -> None:
        self.fs = fs
        self.pid = os.getpid()  # sessions and event loops do not survive a fork
        self.place = _place(fs)

    def key(self, path: str) -> str:
        """The object's name in the pool, the same in every process that means the same object."""
        return _short(f"{self.fs.unstrip_protocol(path)}{self.place}", _KEY_MAX)

    def info(self, path: str) -> dict[str, Any]:
        """The origin's own word: never an entry of the target's listings cache."""
        function = getattr(self.fs, "_info", None) or self.fs.info
        if "refresh" in inspect.signature(function).parameters:
            return self.fs.info(path, refresh=True)
        self.fs.invalidate_cache(path)
        return self.fs.info(path)

    def identify(self, path: str) -> Identity:
        info = self.info(path)
        if info["type"] == "directory":
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        size = info.get("size") if info["type"] == "file" else None
        return self.identity(path, info, size)

    def identity(self, path: str, info: dict[str, Any], size: int | None) -> Identity:
        return Identity(size, _version(info, size) or f"ukey={self._ukey(path, info)};size={size}")

    def _ukey(self, path: str, info: dict[str, Any]) -> str:
        if type(self.fs).ukey is not AbstractFileSystem.ukey:
            return str(self.fs.ukey(path))
        return hashlib.sha256(repr(sorted(info.items(), key=str)).encode()).hexdigest()

    def exists(self, path: str, **kwargs: Any) -> bool:
        return self.fs.exists(path, **kwargs)

    def isfile(self, path: str) -> bool:
        return self.fs.isfile(path)

    def isdir(self, path: str) -> bool:
        return self.fs.isdir(path)

    def reader(self, path: str, identity: Identity) -> Callable[[int, Any], Any]:
        """A function of (offset, length) that returns the bytes, or raises ChangedError if they aren't the identity's."""

        def read(offset: int, length: int) -> bytes:
            data = self.fs.cat_file(path, start=offset, end=offset + length)
            self.confirm(path, identity)
            return data

        return read

    def uncached(self, path: str, start: int | None, end: int | None) -> bytes:
        """What is not cacheable, sliced as Python would."""
        return self.fs.cat_file(path, start=start, end=end)

    def confirm(self, path: str, identity: Identity) -> None:
        if self.identify(path) != identity:
            raise ChangedError(path)


class LocalTarget(Target):
    """Files of this machine, read straight into the page: what is cached here is the work of a slow or a remote disk."""

    into = True
    aliases = True

    def identify(self, path: str) -> Identity:
        return self._identity(os.stat(path), path, time.time_ns())

    def _identity(self, status: os.stat_result, path: str, now: int) -> Identity:
        if stat.S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
        size = status.st_size if stat.S_ISREG(status.st_mode) else None
        return Identity(size, f"{_stamp(status)}{_racy(status, now)}")

    def reader(self, path: str, identity: Identity) -> Callable[[int, Any], int]:
        """A function of (offset, buffer) that fills the buffer. In the caller's thread: no one writes there once it ends."""

        def readinto(offset: int, buffer: Any) -> int:
            with io.FileIO(path) as raw:  # a finalizer at the end of the interpreter has no open() any more
                raw.seek(offset)
                count = _fill(raw, memoryview(buffer))
                if not identity.version.startswith(_stamp(os.fstat(raw.fileno()))):
                    raise ChangedError(path)
            return count

        return readinto


class MemoryTarget(Target):
    """``memory://`` is one process's own: its pages may lie in the shared pool, but under a name that no other one uses."""

    def key(self, path: str) -> str:
        return _short(f"{self.fs.unstrip_protocol(path)}{self.place}@{_private()}", _KEY_MAX)

    def identity(self, path: str, info: dict[str, Any], size: int | None) -> Identity:
        return Identity(size, f"created={info.get('created')};modified={self.fs.modified(path)};size={size}")


class HTTPTarget(Target):
    """A ranged GET per read, whose response must show the identity's ETag, date and length."""

    def identity(self, path: str, info: dict[str, Any], size: int | None) -> Identity:
        known = super().identity(path, info, size)
        if info.get("partial") is False:  # Accept-Ranges: none
            size = None
        return Identity(size, known.version, info.get("ETag"), info.get("Last-Modified"))

    def exists(self, path: str, **kwargs: Any) -> bool:
        """By HEAD: HTTPFileSystem asks by GET, and the server starts to send the whole object."""
        if kwargs:
            return super().exists(path, **kwargs)
        try:
            self.fs.info(path)
        except FileNotFoundError:
            return False
        return True

    isfile = exists

    def isdir(self, path: str) -> bool:
        """A page of links, as HTTPFileSystem has it; but only what is one by HEAD is fetched and searched for links."""
        try:
            return self.fs.info(path).get("mimetype") in (None, "text/html") and self.fs.isdir(path)
        except FileNotFoundError:
            return False

    def reader(self, path: str, identity: Identity) -> Callable[[int, Any], Any]:
        whole: list[bytes] = []  # a server without ranges sent it all: keep it as long as the reader

        def read(offset: int, length: int) -> bytes:
            if not whole:
                partial, data, proven = sync(self.fs.loop, self._get, path, identity, offset, length)
                if not proven:
                    self.confirm(path, identity)
                if partial:
                    return data
                if len(data) != identity.size:
                    raise ChangedError(path)
                whole.append(data)
            return whole[0][offset : offset + length]

        return read

    def uncached(self, path: str, start: int | None, end: int | None) -> bytes:
        """From the whole object, for a server that gives no length, or no ranges, can't be trusted to heed one."""
        return self.fs.cat_file(path)[start:end]

    async def _get(self, path: str, identity: Identity, offset: int, length: int) -> tuple[bool, bytes, bool]:
        options = dict(self.fs.kwargs)
        ours = {"Accept-Encoding": "identity", "Range": f"bytes={offset}-{offset + length - 1}"}
        headers = {**options.pop("headers", {}), **ours}
        session = await self.fs.set_session()
        async with session.get(self.fs.encode_url(path), headers=headers, **options) as response:
            if response.status in (404, 410, 416):
                raise ChangedError(path)
            response.raise_for_status()
            proven = _same(response.headers, identity, path)
            return response.status == 206, await response.read(), proven


class S3Target(Target):
    """s3fs: its file object's ranged GET, which keeps s3fs's retries, under If-Match."""

    def identity(self, path: str, info: dict[str, Any], size: int | None) -> Identity:
        return Identity(size, super().identity(path, info, size).version, info.get("ETag"))

    def reader(self, path: str, identity: Identity) -> Callable[[int, Any], Any]:
        from s3fs.utils import FileExpired

        file = self.fs.open(path, "rb", cache_type="none", size=identity.size)
        file.details = {"name": path, "size": identity.size, "ETag": identity.etag}
        file.read_kw = {**file.read_kw, "IfMatch": identity.etag}

        def read(offset: int, length: int) -> bytes:
            try:
                return file._fetch_range(offset, offset + length)
            except (FileExpired, FileNotFoundError):
                raise ChangedError(path) from None

        return read


def target_for(fs: AbstractFileSystem) -> Target:
    """The adapter that knows most about the filesystem."""
    return _adapter(fs)(fs)


def _adapter(fs: AbstractFileSystem) -> type[Target]:
    if type(fs) is LocalFileSystem:
        return LocalTarget
    if isinstance(fs, MemoryFileSystem):
        return MemoryTarget
    protocols = {fs.protocol} if isinstance(fs.protocol, str) else set(fs.protocol)
    if protocols & {"http", "https"} and fs.async_impl and hasattr(fs, "set_session"):
        return HTTPTarget
    if "s3" in protocols and type(fs).__module__.startswith("s3fs"):
        return S3Target
    return Target


def in_this_process(fs: AbstractFileSystem) -> AbstractFileSystem:
    """A filesystem like the one that the parent had before it forked, with a loop and with connections of its own."""
    if isinstance(fs, (LocalFileSystem, MemoryFileSystem)):
        return fs
    return type(fs)(*fs.storage_args, **fs.storage_options)


def _version(info: dict[str, Any], size: int | None) -> str | None:
    """What tells this version from others; None if nothing does but its size."""
    for names in (_CONTENT, _DATE):
        known = [f"{name}={info[name]}" for name in names if info.get(name) not in (None, "")]
        if known:
            return _short(";".join([*known, f"size={size}"]), _VERSION_MAX)
    return None


def _short(text: str, most: int) -> str:
    """What the pool can show and find again in full: the beginning for people, a digest of it all for the rest.

    Names that are not UTF-8 (lone surrogates in Python) can't be shown in full, so they get a digest, too, however short."""
    shown = text.encode(errors="backslashreplace")
    exact = text.encode(errors="surrogatepass")
    if shown == exact and len(exact) <= most:
        return text
    return f"{shown[: most - 33].decode(errors='ignore')}#{hashlib.sha256(exact).hexdigest()[:32]}"


def _same(headers: Any, identity: Identity, path: str) -> bool:
    """Whether the response proves the identity; False if it says too little; ChangedError if it says otherwise."""
    total = headers.get("Content-Range", "").rpartition("/")[2]
    if total.isdecimal() and int(total) != identity.size:
        raise ChangedError(path)
    for name, expected in (("ETag", identity.etag), ("Last-Modified", identity.modified)):
        if expected and name in headers:
            if headers[name] != expected:
                raise ChangedError(path)
            return True
    return identity.version.startswith("ukey=")


def _stamp(status: os.stat_result) -> str:
    return f"{status.st_dev}-{status.st_ino}-{status.st_size}-{status.st_mtime_ns}-{status.st_ctime_ns}"


def _racy(status: os.stat_result, now: int) -> str:
    """A file stamped within the current tick may change again without a new stamp: such a version is this open's alone."""
    return f"!{now}" if now - max(status.st_mtime_ns, status.st_ctime_ns) < _TICK_NS else ""


def _fill(raw: Any, view: memoryview) -> int:
    count = 0
    while count < len(view) and (more := raw.readinto(view[count:])):
        count += more
    return count


def _place(fs: AbstractFileSystem) -> str:
    """A suffix for options that lead elsewhere (an endpoint, an archive inside which the path lies), else nothing."""
    options = {name: value for name, value in fs.storage_options.items() if name not in _MANNERS}
    if not fs.storage_args and not options:
        return ""
    text = json.dumps([fs.storage_args, options], sort_keys=True, default=_stable)
    return f"?{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def _stable(value: Any) -> Any:
    """JSON for what JSON has no words for: equal in every process, or else this process's alone."""
    if isinstance(value, AbstractFileSystem):
        return [type(value).__qualname__, _place(value)]
    text = repr(value)
    return f"{_private()}-{id(value)}" if " at 0x" in text else text


_nonce: tuple[int, str] = (0, "")


def _private() -> str:
    """A word that no other process has had or will have."""
    global _nonce
    if _nonce[0] != os.getpid():
        _nonce = (os.getpid(), secrets.token_hex(8))
    return _nonce[1]
