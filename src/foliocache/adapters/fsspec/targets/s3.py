"""S3: the ETag of the response that carried the bytes, and ``If-Match`` for the endpoints that heed it."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from typing import Any

from fsspec.asyn import sync

from foliocache import ChangedError

from . import place
from .base import UNCACHED, Identity, Target, refuse_directory

_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)$")
_AWS = re.compile(r"https?://s3([.-](?!us-gov|us-iso|cn-)[a-z0-9-]+)?\.amazonaws\.com$")  # bucket names are the world's there


class S3Target(Target):
    """s3fs: its ``get_object``, with its retries, and the answer checked, since not every endpoint heeds If-Match."""

    manners: frozenset[str] = frozenset(
        {"key", "anon", "profile", "session", "requester_pays", "config_kwargs", "endpoint_url", "client_kwargs", "use_ssl"}
        | {"cache_regions", "fixed_upload_size", "local_expiry_check", "version_aware"}
    )

    def where(self) -> str:
        """By the endpoint that is in effect: it may come from the environment or a profile, and not only from the options."""
        sync(self.fs.loop, self.fs.set_session)
        endpoint = self.fs._s3.meta.endpoint_url
        options = super().where()
        return options if _AWS.match(endpoint) else f"?{place.digest(options, endpoint)}"

    def identify(self, path: str) -> Identity:
        if path in self.unsteady:
            return UNCACHED
        info = self.fs.info(path, refresh=True)
        refuse_directory(path, info)
        size, etag, version = info["size"], info.get("ETag"), info.get("VersionId")
        if not etag and not self.trusted:
            return UNCACHED
        said = [f"{name}={value}" for name, value in (("ETag", etag), ("VersionId", version), ("size", size)) if value]
        return Identity(size, place.short(";".join(said), place.VERSION_MAX), etag)

    def reader(self, path: str, identity: Identity) -> Callable[[int, Any], Any]:
        def read(offset: int, length: int) -> bytes:
            try:
                data, proven = sync(self.fs.loop, self._get, path, identity, offset, length)
            except ChangedError:
                self._judge(path, identity)
                raise
            except OSError as error:
                if error.errno == errno.EINVAL:  # s3fs's word for a precondition that failed, and for a range beyond the end
                    self._judge(path, identity)
                    raise ChangedError(path) from None
                raise
            if not proven:
                self.confirm(path, identity)
            return data

        return read

    def _judge(self, path: str, identity: Identity) -> None:
        """An endpoint that says one ETag to HEAD and another to GET proves nothing."""
        if self.identify(path).same(identity):
            self.unsteady.add(path)

    async def _get(self, path: str, identity: Identity, offset: int, length: int) -> tuple[bytes, bool]:
        from s3fs.core import _error_wrapper, version_id_kw

        bucket, key, version = self.fs.split_path(path)
        asked = {"Range": f"bytes={offset}-{offset + length - 1}", **({"IfMatch": identity.etag} if identity.etag else {})}

        async def get() -> tuple[bytes, bool]:
            response = await self.fs._call_s3("get_object", Bucket=bucket, Key=key, **asked, **version_id_kw(version))
            body = response["Body"]
            try:
                proven = _proves(response, identity, offset, path)
                return await body.read(), proven
            finally:
                body.close()

        return await _error_wrapper(get, retries=self.fs.retries)

    def uncached(self, path: str, identity: Identity, start: int | None, end: int | None) -> bytes:
        """An empty object has no ranges: S3 refuses to give one. How much there is to read, s3fs looks up in its listings."""
        self.fs.invalidate_cache(path)
        if identity.size == 0:
            return self.fs.cat_file(path)[start:end]
        return super().uncached(path, identity, start, end)

    def open(self, path: str, identity: Identity | None, mode: str, **kwargs: Any) -> Any:
        self.fs.invalidate_cache(path)
        return super().open(path, identity, mode, **kwargs)


def _proves(response: Any, identity: Identity, offset: int, path: str) -> bool:
    """Whether the response shows the identity; ChangedError if it shows another, or another range."""
    etag, found = response.get("ETag"), _RANGE.match(response.get("ContentRange") or "")
    if found and (int(found[1]) != offset or int(found[3]) != identity.size):
        raise ChangedError(path)
    if not found and not (offset == 0 and response.get("ContentLength") == identity.size):
        raise ChangedError(path)
    if etag and etag != identity.etag:
        raise ChangedError(path)
    return bool(etag)
