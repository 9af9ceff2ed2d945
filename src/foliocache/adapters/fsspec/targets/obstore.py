"""Reading bytes by obstore (``client=``), if a store can be configured like the target. Names and versions are the target's.

A target whose configuration cannot be translated is refused: obstore might read another object, or as another account.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from importlib.util import find_spec
from itertools import accumulate
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from fsspec.asyn import sync

from foliocache import ChangedError, FoliocacheError
from foliocache.sizes import quoted

from .base import Identity, Stream, Target
from .http import HTTPTarget
from .place import MANNERS
from .s3 import S3Target

if TYPE_CHECKING:
    from foliocache.sources.obstore import Version

AUTO, OBSTORE = "auto", "obstore"

_S3_SAME = frozenset(
    {"key", "secret", "token", "anon", "endpoint_url", "requester_pays", "use_ssl", "client_kwargs", "profile"}
)
_S3_NOTHING = frozenset(
    {"config_kwargs", "version_aware", "cache_regions", "s3_additional_kwargs"}
)  # if they are empty or False
_S3_WRITES = frozenset({"fixed_upload_size", "local_expiry_check"})
_S3_CLIENT = frozenset({"region_name", "endpoint_url"})
_KEY = re.compile(r"[^\x00-\x1f\x7f%\\{}^`\[\]\"<>#|?*~/]+(/[^\x00-\x1f\x7f%\\{}^`\[\]\"<>#|?*~/]+)*")
_URL_PATH = re.compile(r"(/[A-Za-z0-9._=+,@:;&'!$()-]+)+")
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")
_CLIENT: Any = {"allow_http": True, "timeout": "300s"}


class Untranslatable(Exception):
    """The target's configuration, or the path, cannot be translated for obstore. Its text is the reason."""


def check(client: str | None, target: Target) -> None:
    """Raise ValueError if ``client`` cannot be used with the target, whatever the path; ImportError without obstore."""
    if client not in (None, AUTO, OBSTORE):
        raise ValueError(f"folio: client is None, {AUTO!r} or {OBSTORE!r}, not {quoted(client)}")
    if client == OBSTORE and find_spec("obstore") is None:
        raise ImportError("folio: client='obstore' needs obstore; install foliocache[obstore]")
    if client == OBSTORE and _translation(target) is None:
        raise ValueError(
            f"folio: client='obstore' reads https:// and s3:// URLs, and not what {type(target.given).__name__} has; "
            "leave client= out"
        )


def stream(target: Target, path: str, identity: Identity) -> Stream | None:
    """Return what `Target.stream` returns: by obstore, if ``client`` says so and it is possible, else by the target.

    Raises ValueError if client is "obstore" and the target's configuration cannot be translated.
    """
    own = target.stream(path, identity)
    translate = _translation(target) if target.client else None
    if translate is None or find_spec("obstore") is None:
        return own
    from foliocache.sources.obstore import usable

    if target.client == AUTO and (target.obstore_failed or not usable()):
        return own
    try:
        store, key, version = translate(target, path, identity)
    except Untranslatable as why:
        if target.client == AUTO:
            return own
        raise ValueError(
            f"folio: obstore cannot be told to read {quoted(path)} as {type(target.given).__name__} does: {why}; leave "
            f"client= out, or let it be {AUTO!r}"
        ) from None
    return _Reader(target, path, identity, store, key, version, own)


class _Reader:
    """Reads by obstore. If that fails, the target reads, and also decides whether the object has changed."""

    def __init__(
        self, target: Target, path: str, identity: Identity, store: Any, key: str, version: Version, own: Stream | None
    ) -> None:
        self._target, self._store, self._key, self._version = target, store, key, version
        self._own = own or _filling(target.reader(path, identity))

    def __call__(self, offset: int, buffers: Sequence[memoryview]) -> Iterator[object]:
        from foliocache.sources.obstore import read_version

        places = list(accumulate(map(len, buffers), initial=offset))  # before the reads: full buffers must not be used
        done = 0
        try:
            if not (self._target.client == AUTO and self._target.obstore_failed):
                for _ in read_version(self._store, self._key, self._version, offset, buffers):
                    done += 1
                    yield done
        except ChangedError:
            pass
        except (OSError, FoliocacheError):
            if self._target.client != AUTO:
                raise
            self._target.obstore_failed = True
        if done < len(buffers):
            yield from self._own(places[done], buffers[done:])


def _filling(read: Callable[[int, int], bytes]) -> Stream:
    def read_into(offset: int, buffers: Sequence[memoryview]) -> Iterator[object]:
        data = memoryview(read(offset, sum(map(len, buffers))))
        for buffer in buffers:
            buffer[:], data = data[: len(buffer)], data[len(buffer) :]
            yield buffer

    return read_into


Translation = Callable[[Any, str, Identity], "tuple[Any, str, Version]"]  # a store, the path in it, the version of responses


def _translation(target: Target) -> Translation | None:
    translations: dict[type[Target], Translation] = {S3Target: _s3, HTTPTarget: _http}
    return translations.get(type(target))


# S3.


def _s3(target: S3Target, path: str, identity: Identity) -> tuple[Any, str, Version]:
    from foliocache.sources.obstore import Version, strong

    bucket, key, version = target.fs.split_path(path)
    etag = strong(identity.etag)
    if version:
        raise Untranslatable("it names a version")
    if etag is None:
        raise Untranslatable("it has no ETag")
    if not _is_plain(key):
        raise Untranslatable("obstore would spell its key otherwise")
    store = target.stores.get(bucket)
    if store is None:
        target.stores[bucket] = store = _s3_store(target.fs, bucket)
    return store, key, Version(identity.size or 0, etag)


def _is_plain(key: str) -> bool:
    return _KEY.fullmatch(key) is not None and not {".", ".."} & set(key.split("/"))


def _s3_store(fs: Any, bucket: str) -> Any:
    from obstore.store import S3Store

    _refuse_others(fs.storage_options)
    sync(fs.loop, fs.set_session)
    meta = fs._s3.meta
    credentials: Any = None if fs.anon else _Credentials(fs)
    return S3Store(
        bucket,
        endpoint=meta.endpoint_url,
        aws_endpoint_url_s3=meta.endpoint_url,  # takes precedence over endpoint, and may be set in the environment
        region=meta.region_name or "us-east-1",
        skip_signature=bool(fs.anon),
        request_payer=bool(fs.req_kw.get("RequestPayer")),
        virtual_hosted_style_request=False,
        s3_express=False,
        client_options=_CLIENT,
        credential_provider=credentials,
    )


def _refuse_others(options: dict[str, Any]) -> None:
    for name, value in options.items():
        if name in _S3_NOTHING and value:
            raise Untranslatable(f"it has the option {name}")
        if name not in _S3_SAME | _S3_NOTHING | _S3_WRITES | MANNERS:
            raise Untranslatable(f"it has the option {name}")
    if others := set(options.get("client_kwargs") or ()) - _S3_CLIENT:
        raise Untranslatable(f"client_kwargs has {', '.join(sorted(others))}")


class _Credentials:
    """The keys with which the target signs now: given ones, or those of its session, which renews them."""

    def __init__(self, fs: Any) -> None:
        self._fs = fs

    def __call__(self) -> dict[str, Any]:
        if self._fs.key and self._fs.secret:
            return {
                "access_key_id": self._fs.key,
                "secret_access_key": self._fs.secret,
                "token": self._fs.token,
                "expires_at": None,
            }
        found = sync(self._fs.loop, self._of_session)
        if found is None:
            raise PermissionError("no credentials were found")
        return {
            "access_key_id": found.access_key,
            "secret_access_key": found.secret_key,
            "token": found.token,
            "expires_at": datetime.now(UTC) + timedelta(minutes=1),
        }

    async def _of_session(self) -> Any:
        credentials = await self._fs.session.get_credentials()
        return None if credentials is None else await credentials.get_frozen_credentials()


# HTTP.


def _http(target: HTTPTarget, path: str, identity: Identity) -> tuple[Any, str, Version]:
    from fsspec.implementations.http import HTTPFileSystem, get_client

    from foliocache.sources.obstore import Version, strong

    fs = target.fs
    if type(fs) is not HTTPFileSystem or fs.get_client is not get_client:
        raise Untranslatable("it has a client of its own")
    if fs.client_kwargs or set(fs.kwargs) - {"headers"}:
        raise Untranslatable(f"it has the options {', '.join(sorted({*fs.client_kwargs, *fs.kwargs} - {'headers'}))}")
    if any(name.lower() in _PROXIES for name in os.environ):
        raise Untranslatable("the environment names a proxy, which fsspec does not use")
    parts = urlsplit(str(fs.encode_url(path)))
    if parts.query or parts.fragment or "@" in parts.netloc or not _URL_PATH.fullmatch(parts.path):
        raise Untranslatable("obstore would spell its URL otherwise")
    if {".", ".."} & set(parts.path.split("/")):
        raise Untranslatable("obstore would spell its URL otherwise")
    modified = parsedate_to_datetime(identity.modified) if identity.modified else None
    version = Version(identity.size or 0, strong(identity.etag), modified)
    if version.etag is None and modified is None:
        raise Untranslatable("nothing in an answer tells its versions apart")
    where = f"{parts.scheme}://{parts.netloc}"
    store = target.stores.get(where)
    if store is None:
        target.stores[where] = store = _http_store(where, fs.kwargs.get("headers"))
    return store, parts.path[1:], version


def _http_store(where: str, headers: dict[str, str] | None) -> Any:
    from obstore.store import HTTPStore

    options: Any = {**_CLIENT, **({"default_headers": dict(headers)} if headers else {})}
    return HTTPStore(where, client_options=options)
