"""What the pool can say about an object without asking the origin, if answers are trusted for a while (``expiry``,
``check_files=False``): ``info()`` and what follows from it.

pandas, pyarrow, rasterio and DuckDB ask several times whether a file is there, how large it is and whether it is a folder, in
each process. The first answer is recorded beside the path's identity: under the same key, so whatever forgets the identity
forgets it, too, and for another "account". It is the target's own ``info()``, made by a question that reaches the origin.

Recorded are files, and that there is no such path, if the answers expire. Folders are not: their paths are not forgotten when
something below them is written.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from .passthrough import PassThrough

if TYPE_CHECKING:
    from foliocache.pool.names import Ask, Name

_EXTRA_MAX = 192  # bytes of a name's extra; the rest is in its version
_MAGIC = re.compile(r"[*?\[]")


class Answers(PassThrough):
    """The questions about paths that FolioFileSystem may answer itself."""

    if TYPE_CHECKING:
        _trust: float
        _who: str
        pool: Any

        def _has_pool(self) -> bool: ...

    def info(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        return self._or_target("info", lambda info: info, path, *args, **kwargs)

    def size(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        return self._or_target("size", lambda info: info.get("size"), path, *args, **kwargs)

    def modified(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        """Return when the object was modified: what the target says, or else the date of an HTTP object."""
        if isinstance(path, str) and self.target.tells_info and not (args or kwargs):
            when = _when(self.info(path))
            if when is not None:
                return when
        return self.fs.modified(self._unprefixed(path), *args, **kwargs)

    def exists(self, path: str, **kwargs: Any) -> bool:
        if kwargs or not self._answers(path):
            return self.target.exists(self._unprefixed(path), **kwargs)
        try:
            return bool(self.info(path))
        except FileNotFoundError:
            return False

    def isfile(self, path: str) -> bool:
        return self.exists(path) and self.info(path)["type"] == "file" if self._answers(path) else super().isfile(path)

    def isdir(self, path: str) -> bool:
        """Return True for a folder, or a page that may be one; only such a path is asked for once more."""
        if self._answers(path):
            try:
                info = self.info(path)
            except FileNotFoundError:
                return False
            if info["type"] == "file" and info.get("mimetype") not in (None, "text/html"):
                return False
        return super().isdir(path)

    def glob(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the paths that match; a path without a pattern is not searched for."""
        if isinstance(path, str) and not (args or kwargs) and self._answers(path) and not _MAGIC.search(path):
            return [self._strip_protocol(self._unprefixed(path))] if self.exists(path) else []
        return self.fs.glob(self._unprefixed(path), *args, **kwargs)

    def _answers(self, path: Any) -> bool:
        """Return True if the pool may answer questions about the path. It never does about a bucket, or the root."""
        return bool(self._trust) and self.target.tells_info and "/" in self._strip_protocol(self._unprefixed(path)).strip("/")

    def _or_target(self, name: str, cut: Callable[[Any], Any], path: Any, *args: Any, **kwargs: Any) -> Any:
        if args or kwargs or not isinstance(path, str) or not self._answers(path):
            return getattr(self.fs, name)(self._unprefixed(path), *args, **kwargs)
        return cut(self._told(self._strip_protocol(self._unprefixed(path))))

    def _told(self, path: str) -> dict[str, Any]:
        """Return ``info()`` of a path. Raises what the target raises."""
        who = f"{self._who} info"
        known: Any = self._identities.recall(path, who, self._trust)
        if known is not None:
            return dict(known)
        if self._identities.is_written(path) or not self._has_pool():
            return self.target.told(path)
        with self.pool.names.ask(self.target.key(path), self._trust, who=who) as ask:
            if ask.known is not None:
                return _read(ask.known, path)
            return self._record(ask, path, who)

    def _record(self, ask: Ask, path: str, who: str) -> dict[str, Any]:
        question = self._identities.ask(path, who)
        try:
            info = self.target.told(path)
        except FileNotFoundError as error:
            if self._trust < math.inf and says_absent(error):
                ask.answer_absent()
            raise
        if info["type"] != "file" or self._identities.is_written(path):
            return info
        text = _write(info, path)
        if text is None or not ask.answer(0, text[_EXTRA_MAX:], text[:_EXTRA_MAX].encode()):
            question.identity = dict(info)  # type: ignore[assignment]  # what is remembered of this question
        return info


def says_absent(error: FileNotFoundError) -> bool:
    """Return True if the origin has said that there is no such object: fsspec's HTTP raises the same for any other failure."""
    status = getattr(error.__cause__, "status", None)
    return error.__cause__ is None or status in (404, 410) or isinstance(error.__cause__, FileNotFoundError)


def _when(info: dict[str, Any]) -> datetime | None:
    for name in ("LastModified", "Last-Modified"):
        value = info.get(name)
        if isinstance(value, datetime):
            return value
        if isinstance(value, str):
            with suppress(ValueError):
                return parsedate_to_datetime(value)
    return None


def _write(info: dict[str, Any], path: str) -> str | None:
    """Return an answer as ASCII; None if it would not be the same when it is read."""
    kept = {
        name: [] if value == path else [value.isoformat()] if isinstance(value, datetime) else value
        for name, value in info.items()
    }
    try:
        text = json.dumps(kept, separators=(",", ":"))
        return text if _parse(text, path) == info else None
    except (TypeError, ValueError):
        return None


def _parse(text: str, path: str) -> dict[str, Any]:
    """Return the answer in a text. A list stands for the path, or for a date."""
    found = json.loads(text)
    return {
        name: value if not isinstance(value, list) else datetime.fromisoformat(value[0]) if value else path
        for name, value in found.items()
    }


def _read(name: Name, path: str) -> dict[str, Any]:
    if not name.exists:
        raise FileNotFoundError(path)
    return _parse(name.extra.decode() + name.version, path)
