"""Which version each path had when the origin was last asked, and for how long that is believed.

The pool's names remember it for all processes (``shared``, ``unshared``). What does not fit there, this process remembers for
itself; and which paths it is writing to.

One table per place, shared by all the filesystem objects that the process has for it: fsspec makes one object per thread and
set of options, and what one of them writes must not stay remembered in another. An answer is only for who asked (`who`: the
account and other options), but forgetting is for all.

An answer is written into its question, and the question is in the table from before it is asked. So forgetting a path
also forgets the questions that are on their way: their answers may be older than what made them void, and are not used.

Every step is one operation of a plain dict, so no lock is needed that a fork could copy while it is held, or that a signal
handler or a finalizer could meet again.
"""

from __future__ import annotations

import errno
import json
import math
import os
from functools import lru_cache
from time import monotonic
from typing import TYPE_CHECKING, Any

from .target import Identity

if TYPE_CHECKING:
    from foliocache.pool.names import Name

_LIMIT = 1 << 16  # paths; the oldest entries make room, which costs a later open one more info()

_SAME_MAX = 1024  # identities whose words are not read again

_tables: dict[str, Identities] = {}


class Question:
    """What version a path has: asked at `since`, and the answer once it is there."""

    __slots__ = ("identity", "since")

    def __init__(self) -> None:
        self.since: float = monotonic()
        self.identity: Identity | None = None


class Identities:
    """The remembered identities of one place."""

    def __init__(self) -> None:
        self._asked: dict[str, dict[str, Question]] = {}  # by path, and by who asked
        self._writing: dict[object, str] = {}  # the files that are open for writing: any moment may change their paths
        self.uncommitted: set[str] = set()  # what the target's transaction will change when it ends

    @classmethod
    def of(cls, place: str) -> Identities:
        return _tables.setdefault(place, cls())

    def recall(self, path: str, who: str, trust: float) -> Identity | None:
        """What was last answered, if that was less than `trust` seconds ago."""
        question = self._asked.get(path, {}).get(who)
        if question is None or self.is_written(path) or monotonic() - question.since >= trust:
            return None
        return question.identity

    def ask(self, path: str, who: str) -> Question:
        """A new question, to be made before the origin is asked; its `identity`, when set, is what is remembered."""
        question = Question()
        if not self.is_written(path):
            if path not in self._asked and len(self._asked) >= _LIMIT:
                for oldest in list(self._asked)[: max(1, _LIMIT // 8)]:
                    self._asked.pop(oldest, None)
            self._asked.setdefault(path, {})[who] = question  # if the path is forgotten in between, so is the question
        return question

    def forget(self, path: str, identity: Identity | None = None) -> None:
        """Forget the path's identity and the questions under way; with `identity`, only if that is what is remembered."""
        asked = list(self._asked.get(path, {}).values())
        if identity is None or any(question.identity == identity for question in asked):
            self._asked.pop(path, None)

    def forget_all(self) -> None:
        self._asked.clear()

    def below(self, path: str) -> list[str]:
        """The remembered paths that are `path` or lie under it; all of them for a root."""
        root = path.rstrip("/")
        return [seen for seen in list(self._asked) if not root or seen == root or seen.startswith(f"{root}/")]

    def begin_writing(self, path: str) -> object:
        """Until end_writing() nothing is remembered of the path; returns what to give to that."""
        writer = object()
        self._writing[writer] = path
        self.forget(path)
        return writer

    def end_writing(self, writer: object) -> None:
        path = self._writing.pop(writer, None)
        if path is not None:
            self.forget(path)

    def is_written(self, path: str) -> bool:
        """Whether this process is changing what is at the path: nothing may be remembered of it."""
        return path in self.uncommitted or path in list(self._writing.values())


def shared(identity: Identity) -> tuple[int, str, bytes] | None:
    """What a name says of an identity: size, version, extra bytes. None if it is one open's alone, or is not to be cached."""
    if identity.size is None or identity.nonce:
        return None
    rest = _rest(identity)
    extra = b"" if rest == [None, None, None] else json.dumps(rest, separators=(",", ":")).encode()
    return identity.size, identity.stamp, extra


def unshared(path: str, name: Name) -> Identity:
    """The identity that a name says. Raises FileNotFoundError if it says that there is nothing."""
    if not name.exists:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return _identity(name.size, name.version, name.extra)


@lru_cache(_SAME_MAX)
def _identity(size: int, stamp: str, extra: bytes) -> Identity:
    return _made(size, stamp, *json.loads(extra or b"[null,null,null]"))


def _rest(identity: Identity) -> list[Any]:
    within = identity.within
    return [identity.etag, identity.modified, within and [within.size, within.stamp, *_rest(within)]]


def _made(size: int, stamp: str, etag: str | None, modified: str | None, within: list[Any] | None) -> Identity:
    return Identity(size, stamp, etag, modified, within=None if within is None else _made(*within))


def trust_seconds(check_files: bool | None, expiry: float | None) -> float:
    """How long an identity is believed: not at all when files are checked, for ever when neither option says anything else."""
    if expiry is not None and (isinstance(expiry, bool) or not isinstance(expiry, (int, float)) or not expiry >= 0):
        raise ValueError(f"folio: expiry is a number of seconds, 0 or more, or None; not {expiry!r}")
    if check_files not in (None, True, False):
        raise ValueError(f"folio: check_files is True, False or None; not {check_files!r}")
    if check_files or (check_files is None and expiry is None):
        return 0.0
    return math.inf if expiry is None else float(expiry)
