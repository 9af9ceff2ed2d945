"""Filesystems whose ``info()`` reaches the origin: it is called before the first read, for the identity, and after each read,
as the proof.

For each of them it is known that the origin answers the question, and not a cache, and which fields of the answer distinguish
versions. It is asked through an instance that only this module uses, without a listings cache.
"""

from __future__ import annotations

import inspect
import os
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from fsspec import AbstractFileSystem

from . import place
from .base import UNCACHED, AsyncTarget, Identity, refuse_directory

# Fields of info() that change with the content: first those that identify it, then those that only date it.
CONTENT = ("ETag", "etag", "e_tag", "VersionId", "version_id", "generation", "md5Hash", "content_md5", "Content-MD5", "md5")
MORE_CONTENT = ("sha", "sha256", "hex", "checksum", "xet_hash", "blob_id", "Digest", "CRC")
DATE = ("LastModified", "Last-Modified", "last_modified", "mtime", "modified", "modify", "updated", "timeModified")
MORE_DATE = ("modificationTime", "date_time", "created")

_TICK = 2.0  # seconds within which an object may change again without a new date


@dataclass(frozen=True, slots=True)
class Known:
    """What is known about a filesystem."""

    content: tuple[str, ...] = ()  # fields that identify the content: enough by themselves
    date: tuple[str, ...] = ()  # fields that date it
    extra: tuple[str, ...] = ()  # further fields that change with a rewrite
    asking: tuple[str, ...] = ()  # arguments of info() that must be True for the question to reach the origin
    listings: bool = False  # it has a listings cache, which use_listings_cache=False turns off
    manners: frozenset[str] = frozenset()
    attributes: tuple[str, ...] = ()  # attributes of the filesystem that identify its place
    environment: tuple[str, ...] = ()  # environment variables that do


_SSH = Known(date=("mtime",), attributes=("host",), environment=("LOGNAME", "USER"))  # relative paths are in that user's home
KNOWN = {
    "fsspec.implementations.sftp.SFTPFileSystem": _SSH,
    "fsspec.implementations.smb.SMBFileSystem": Known(
        date=("mtime",), attributes=("host", "port"), manners=frozenset({"encrypt", "share_access"})
    ),
    "fsspec.implementations.webhdfs.WebHDFS": Known(
        date=("modificationTime",), extra=("fileId",), attributes=("url",), manners=frozenset({"kerberos", "kerb_kwargs"})
    ),
    "fsspec.implementations.arrow.HadoopFileSystem": Known(
        date=("mtime",), environment=("HADOOP_CONF_DIR", "HADOOP_HOME", "HADOOP_USER_NAME")
    ),
    "sshfs.spec.SSHFileSystem": _SSH,
    "gcsfs.core.GCSFileSystem": Known(
        content=("generation",),
        listings=True,
        manners=frozenset({"project", "access", "consistency", "requester_pays", "cache_timeout", "check_connection"}),
        attributes=("_endpoint",),
    ),
    "adlfs.spec.AzureBlobFileSystem": Known(
        content=("etag",),
        asking=("refresh",),
        listings=True,
        manners=frozenset({"anon", "client_id", "tenant_id", "connection_string", "request_session", "socket_timeout"}),
        attributes=("account_url",),
    ),
    "huggingface_hub.hf_file_system.HfFileSystem": Known(  # without expand_info it would use a listing first
        content=("xet_hash", "blob_id"), asking=("refresh", "expand_info"), attributes=("endpoint",)
    ),
}
KNOWN["gcsfs.extended_gcsfs.ExtendedGcsFileSystem"] = KNOWN["gcsfs.core.GCSFileSystem"]


class AskedTarget(AsyncTarget):
    """Asks the origin with ``info()`` before the first read and after each read."""

    known: Known = Known()
    tells_info = True

    def __init__(self, fs: AbstractFileSystem, trusted: bool = False, known: Known | None = None) -> None:
        super().__init__(fs, trusted)
        self.known = known or self.known
        self.awaits: bool = fs.async_impl
        self.manners: frozenset[str] = self.known.manners
        self.attributes: tuple[str, ...] = self.known.attributes

    def where(self) -> str:
        text = super().where()
        values = [os.environ.get(name) for name in self.known.environment]
        return f"?{place.digest(text, values)}" if any(values) else text

    @cached_property
    def own(self) -> AbstractFileSystem:
        """An instance that only this object uses, so that each answer belongs to one of its own questions."""
        quiet = {"use_listings_cache": False} if self.known.listings else {}
        return type(self.given)(
            *self.given.storage_args, **{**self.given.storage_options, **quiet, "skip_instance_cache": True}
        )

    def ask(self, path: str) -> dict[str, Any]:
        return self.call(self.own.info, path, **dict.fromkeys(self.known.asking, True))

    def told(self, path: str) -> dict[str, Any]:
        return self.ask(path)

    def identify(self, path: str) -> Identity:
        return UNCACHED if path in self.unsteady else self._told(path, self.ask(path))

    async def _identify(self, path: str) -> Identity:
        if path in self.unsteady:
            return UNCACHED
        return self._told(path, await self.own._info(path, **dict.fromkeys(self.known.asking, True)))

    def _told(self, path: str, info: dict[str, Any]) -> Identity:
        refuse_directory(path, info)
        return self.identity(info) if info["type"] == "file" else UNCACHED

    def identity(self, info: dict[str, Any]) -> Identity:
        size = info.get("size")
        known = self.known
        content = _said(info, known.content)
        dated = _said(info, known.date)
        if not content and not dated:
            return UNCACHED
        stamp = place.short(";".join([*(content or dated), *_said(info, known.extra), f"size={size}"]), place.VERSION_MAX)
        recent = not content and any(_is_recent(info.get(name)) for name in known.date)
        return Identity(size, stamp, nonce=place.nonce() if recent else "")

    def reader(self, path: str, identity: Identity) -> Callable[[int, Any], Any]:
        def read(offset: int, length: int) -> bytes:
            data = self.call(self.own.cat_file, path, start=offset, end=offset + length)
            self.confirm(path, identity)
            return data

        return read

    def _reader(self, path: str, identity: Identity) -> Callable[[int, int], Awaitable[bytes]]:
        async def read(offset: int, length: int) -> bytes:
            data: bytes = await self.own._cat_file(path, start=offset, end=offset + length)
            await self._confirm(path, identity)
            return data

        return read

    def uncached(self, path: str, identity: Identity, start: int | None, end: int | None) -> bytes:
        return self.call(self.own.cat_file, path, start=start, end=end)


class TrustedTarget(AskedTarget):
    """A filesystem for which the user vouches (trust_info): its ``info()`` reaches the origin and distinguishes versions."""

    known: Known = Known(CONTENT + MORE_CONTENT, DATE + MORE_DATE)

    def where(self) -> str:
        """Return the suffix of keys. The options' meaning is not known: if one is an existing path, it counts as absolute."""
        options = self.given.storage_options
        paths = {
            name: os.path.abspath(text) for name, text in options.items() if isinstance(text, str) and os.path.exists(text)
        }
        text = super().where()
        return text if not paths else f"?{place.digest(text, paths)}"

    @cached_property
    def own(self) -> AbstractFileSystem:
        """The user's own instance: it may be impossible to make a second one."""
        return self.given

    def ask(self, path: str) -> dict[str, Any]:
        function = getattr(self.own, "_info", None) or self.own.info
        if "refresh" in inspect.signature(function).parameters:
            return self.call(self.own.info, path, refresh=True)
        self.own.invalidate_cache(path)
        return self.call(self.own.info, path)

    def identity(self, info: dict[str, Any]) -> Identity:
        identity = super().identity(info)
        size = info.get("size")
        return identity if identity.stamp or size is None else Identity(size, f"size={size}")


def _said(info: dict[str, Any], names: tuple[str, ...]) -> list[str]:
    return [f"{name}={info[name]}" for name in names if info.get(name) not in (None, "")]


def _is_recent(date: Any) -> bool:
    """Return True if a change now could get the same date, by this machine's clock, since the origin's clock is not known."""
    when = instant(date)
    return when is not None and -_TICK < time.time() - when < _TICK


def instant(date: Any) -> float | None:
    """Return a filesystem's date in seconds since the epoch: datetime, seconds, milliseconds, ISO or FTP; None for others."""
    if isinstance(date, datetime):
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    if isinstance(date, (int, float)):
        return date / 1000 if date > 1e11 else float(date)
    if not isinstance(date, str):
        return None
    try:
        return (
            (datetime.strptime(date[:14], "%Y%m%d%H%M%S") if date[:14].isdigit() else datetime.fromisoformat(date))
            .replace(tzinfo=UTC)
            .timestamp()
        )
    except ValueError:
        return None
