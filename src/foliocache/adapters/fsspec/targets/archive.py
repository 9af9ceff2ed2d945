"""Members of tar, zip and other archives: their identity is that of the archive, at the place where it is stored.

An archive filesystem reads an index when it is made, and answers all questions from that memory. So the origin is asked for the
current identity of the *archive*; index and members are read through a file that is bound to that version of the archive by the
proofs of the target under it. Instead of bytes of another version, that file raises ChangedError.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.core import OpenFile
from fsspec.spec import AbstractBufferedFile

from foliocache import ChangedError

from . import place
from .base import UNCACHED, Held, Identity, Target, bytes_reader, refuse_directory

_BLOCK = 1 << 20
_HOW_TO_OPEN = ("fo", "target_protocol", "target_options")


class ProvenFile(AbstractBufferedFile):
    """One version of an object, for libraries that need a file.

    An error is kept in `error`: some libraries treat an error of their file as a damaged archive, or as its end.
    """

    def __init__(self, target: Target, path: str, identity: Identity) -> None:
        super().__init__(target.fs, path, "rb", block_size=_BLOCK, cache_type="readahead", size=identity.size)
        self.error: BaseException | None = None
        self._read = bytes_reader(target, path, identity)

    def _fetch_range(self, start: int, end: int) -> bytes:
        try:
            return self._read(start, end - start)
        except FileNotFoundError:
            self.error = ChangedError(self.path)
        except BaseException as error:
            self.error = error
        raise self.error


class Opened:
    """An archive at one version, whose index has been read."""

    def __init__(self, fs: AbstractFileSystem, target: Target, path: str, identity: Identity) -> None:
        self.identity = identity
        self._file = ProvenFile(target, path, identity)
        options = {name: value for name, value in fs.storage_options.items() if name not in _HOW_TO_OPEN}
        self._fs = self._checked(lambda: type(fs)(fo=self._file, **{**options, "skip_instance_cache": True}))

    def info(self, path: str) -> dict[str, Any]:
        return self._checked(lambda: self._fs.info(path))

    def read(self, path: str, offset: int, length: int) -> bytes:
        return self._checked(lambda: self._fs.cat_file(path, start=offset, end=offset + length))

    def _checked(self, function: Callable[[], Any]) -> Any:
        try:
            result = function()
        except Exception:
            if self._file.error is None:
                raise
        if self._file.error is not None:
            raise self._file.error
        return result


class ArchiveTarget(Target):
    """The archive's identity and the member's name; the proofs are those of the target that has the archive."""

    def __init__(self, fs: AbstractFileSystem, container: Target, path: str, trusted: bool = False) -> None:
        super().__init__(fs, trusted)
        self.container = container
        self.path = path
        self._opened: Opened | None = None

    @classmethod
    def of(cls, fs: AbstractFileSystem, trusted: bool, choose: Callable[[AbstractFileSystem], Target]) -> Target | None:
        """Return the target for an archive that was opened by name, for reading; None for others, which have no identity."""
        file = getattr(fs, "of", None)
        if not isinstance(file, OpenFile) or file.compression or file.mode != "rb" or len(fs.storage_args) > 1:
            return None
        return cls(fs, choose(file.fs), file.path, trusted)

    def where(self) -> str:
        options = {name: value for name, value in self.given.storage_options.items() if name not in _HOW_TO_OPEN}
        return f"?{place.digest(self.container.key(self.path), options)}"

    def identify(self, path: str) -> Identity:
        archive = self.container.identify(self.path)
        if not archive.cacheable:
            return UNCACHED
        return self._turn.call(self._member, path, archive)

    def _member(self, path: str, archive: Identity) -> Identity:
        info = self._open(archive).info(path)
        refuse_directory(path, info)
        size = info["size"]
        stamp = place.short(f"size={size};in {archive.stamp}", place.VERSION_MAX)
        return Identity(size, stamp, nonce=archive.nonce, within=archive)

    def _open(self, archive: Identity) -> Opened:
        """Return the archive at that version. One that may change without a new stamp (it has a nonce) is opened each time."""
        opened = self._opened
        if opened is None or opened.identity != archive:
            now = Opened(self.given, self.container, self.path, archive)
            if opened is not None:
                self.fs: AbstractFileSystem = type(self.given)(
                    *self.given.storage_args, **self.given.storage_options
                )  # for listings
            self._opened = opened = now
        return opened

    def reader(self, path: str, identity: Identity) -> Callable[[int, Any], Any]:
        archive = identity.within
        assert archive is not None

        def read(offset: int, length: int) -> bytes:
            return self._turn.call(lambda: self._open(archive).read(path, offset, length))

        return read

    def uncached(self, path: str, identity: Identity, start: int | None, end: int | None) -> bytes:
        return b"" if identity.size == 0 else super().uncached(path, identity, start, end)

    def get_file(self, path: str, identity: Identity, lpath: str, **kwargs: Any) -> None:
        if identity.size != 0 or kwargs.keys() > {"callback"}:
            super().get_file(path, identity, lpath, **kwargs)
        else:
            with open(lpath, "wb"):
                pass

    def open(self, path: str, identity: Identity | None, mode: str, **kwargs: Any) -> Any:
        """Open a member. An empty one is empty in the current archive; `fs` may have an older archive open."""
        return Held() if identity is not None and identity.size == 0 else super().open(path, identity, mode, **kwargs)
