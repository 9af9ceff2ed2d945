"""S3: proof by the ETag of the response that carried the bytes, and by ``If-Match`` at endpoints that support it."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Awaitable, Callable
from typing import Any

from fsspec.asyn import sync

from foliocache import ChangedError

from . import place
from .base import UNCACHED, AsyncTarget, First, Identity, refuse_directory

_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)$")
_AWS = re.compile(r"https?://s3([.-](?!us-gov|us-iso|cn-)[a-z0-9-]+)?\.amazonaws\.com$")  # bucket names are global there


class S3Target(AsyncTarget):
    """s3fs: reads by its ``get_object``, with its retries. Responses are checked: not every endpoint supports If-Match."""

    tells_with_bytes = True
    tells_info = True
    manners: frozenset[str] = frozenset(
        {"key", "anon", "profile", "session", "requester_pays", "config_kwargs", "endpoint_url", "client_kwargs", "use_ssl"}
        | {"cache_regions", "fixed_upload_size", "local_expiry_check", "version_aware"}
    )

    def where(self) -> str:
        """Return the suffix of keys, by the endpoint in use, which may come from the options, the environment or a profile."""
        sync(self.fs.loop, self.fs.set_session)
        endpoint = self.fs._s3.meta.endpoint_url
        options = super().where()
        return options if _AWS.match(endpoint) else f"?{place.digest(options, endpoint)}"

    async def _identify(self, path: str) -> Identity:
        if path in self.unsteady:
            return UNCACHED
        info = await self.fs._info(path, refresh=True)
        refuse_directory(path, info)
        return self._identity(info["size"], info.get("ETag"), info.get("VersionId"))

    def told(self, path: str) -> dict[str, Any]:
        return self.fs.info(path, refresh=True)

    def _identity(self, size: int, etag: str | None, version: str | None) -> Identity:
        if not etag and not self.trusted:
            return UNCACHED
        said = [f"{name}={value}" for name, value in (("ETag", etag), ("VersionId", version), ("size", size)) if value]
        return Identity(size, place.short(";".join(said), place.VERSION_MAX), etag)

    async def _first(self, path: str, start: int, end: int) -> First | None:
        """See ``Target.first``. The response to ``get_object`` has the fields of ``head_object``. If it is refused (for an
        empty object, for example), identify() is called."""
        if path in self.unsteady or not self.fs.split_path(path)[1]:
            return None
        try:
            return await self._first_bytes(path, start, end)
        except FileNotFoundError:
            if not await self._is_folder(path):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from None
        except OSError:
            return None
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)

    async def _is_folder(self, path: str) -> bool:
        """Return True if there are keys below the path: the same request that s3fs's ``info()`` makes if there is no object."""
        bucket, key, _ = self.fs.split_path(path)
        asked = {"Bucket": bucket, "Prefix": f"{key.rstrip('/')}/", "Delimiter": "/", "MaxKeys": 1}
        found = await self.fs._call_s3("list_objects_v2", self.fs.kwargs, **asked)
        return bool(found.get("KeyCount") or found.get("Contents") or found.get("CommonPrefixes"))

    async def _first_bytes(self, path: str, start: int, end: int) -> First | None:
        from s3fs.core import _error_wrapper

        async def get() -> First | None:
            response = await self._object(path, {"Range": f"bytes={start}-{end - 1}"})
            body = response["Body"]
            try:
                total, length = _total(response, start), response.get("ContentLength")
                identity = self._identity(total, response.get("ETag"), response.get("VersionId")) if total else UNCACHED
                if not identity.cacheable or not identity.etag or length != min(end, identity.size or 0) - start:
                    return None
                return First(identity, start, await body.read())
            finally:
                body.close()

        found: First | None = await _error_wrapper(get, retries=self.fs.retries)
        return found if found is not None and len(found.data) == min(end, found.identity.size or 0) - start else None

    async def _object(self, path: str, asked: dict[str, str]) -> Any:
        from s3fs.core import version_id_kw

        bucket, key, version = self.fs.split_path(path)
        return await self.fs._call_s3("get_object", Bucket=bucket, Key=key, **asked, **version_id_kw(version))

    def _reader(self, path: str, identity: Identity) -> Callable[[int, int], Awaitable[bytes]]:
        async def read(offset: int, length: int) -> bytes:
            try:
                data, proven = await self._get(path, identity, offset, length)
            except ChangedError:
                await self._judge(path, identity)
                raise
            except OSError as error:
                if error.errno == errno.EINVAL:  # s3fs raises it for a failed precondition, and for a range beyond the end
                    await self._judge(path, identity)
                    raise ChangedError(path) from None
                raise
            if not proven:
                await self._confirm(path, identity)
            return data

        return read

    async def _judge(self, path: str, identity: Identity) -> None:
        """Do not cache the path if HEAD still shows the identity that GET did not: such an endpoint proves nothing."""
        if (await self._identify(path)).same(identity):
            self.unsteady.add(path)

    async def _get(self, path: str, identity: Identity, offset: int, length: int) -> tuple[bytes, bool]:
        from s3fs.core import _error_wrapper

        asked = {"Range": f"bytes={offset}-{offset + length - 1}", **({"IfMatch": identity.etag} if identity.etag else {})}

        async def get() -> tuple[bytes, bool]:
            response = await self._object(path, asked)
            body = response["Body"]
            try:
                proven = _proves(response, identity, offset, path)
                return await body.read(), proven
            finally:
                body.close()

        return await _error_wrapper(get, retries=self.fs.retries)

    async def _uncached(self, path: str, identity: Identity, start: int | None, end: int | None) -> bytes:
        """Read uncached. S3 refuses a range of an empty object. s3fs takes sizes from its listings, so they are dropped."""
        self.fs.invalidate_cache(path)
        if identity.size == 0:
            found: bytes = await self.fs._cat_file(path)
            return found[start:end]
        return await super()._uncached(path, identity, start, end)

    def open(self, path: str, identity: Identity | None, mode: str, **kwargs: Any) -> Any:
        self.fs.invalidate_cache(path)
        return super().open(path, identity, mode, **kwargs)


def _total(response: Any, start: int) -> int | None:
    """Return the object's size from a response whose bytes begin at ``start``; None if the response does not show both."""
    found = _RANGE.match(response.get("ContentRange") or "")
    if found:
        return int(found[3]) if int(found[1]) == start else None
    return response.get("ContentLength") if start == 0 else None


def _proves(response: Any, identity: Identity, offset: int, path: str) -> bool:
    """Return True if the response proves the identity, False if it has no ETag. Raises ChangedError if it shows another
    identity, or another range."""
    etag, found = response.get("ETag"), _RANGE.match(response.get("ContentRange") or "")
    if found and (int(found[1]) != offset or int(found[3]) != identity.size):
        raise ChangedError(path)
    if not found and not (offset == 0 and response.get("ContentLength") == identity.size):
        raise ChangedError(path)
    if etag and etag != identity.etag:
        raise ChangedError(path)
    return bool(etag)
