"""The identity that each path had when the origin was last asked, and for how long it is trusted.

The pool's names record identities for all processes (``shared``, ``unshared``). This process remembers those that do not fit
there, and the paths that it is writing to.

There is one table per place, shared by all of the process's filesystem objects for it: fsspec makes one object per thread and
set of options, and what one of them writes must not stay remembered in another. An answer is valid only for the account and
options with which it was asked (`who`), but forgetting is for all.

An answer is stored in its question, which is put into the table before the origin is asked. So forgetting a path also forgets
its unanswered questions: their answers may be older than the change that made them invalid, and are not used.

Every step is one operation of a plain dict, so there is no lock that a fork could copy while it is held, or on which a signal
handler or a finalizer could deadlock.
"""

from __future__ import annotations

import errno
import json
import math
import os
from functools import lru_cache
from json.encoder import encode_basestring_ascii
from time import monotonic
from typing import TYPE_CHECKING, Any

from foliocache.sizes import quoted

from .target import Identity

if TYPE_CHECKING:
    from foliocache.pool.names import Name

_LIMIT = 1 << 16  # paths; the oldest entries are dropped, and the next open of one of them costs one more info()

_SAME_MAX = 1024  # parsed identities that are kept

_NO_REST = "[null,null,null]"

_NONE: dict[str, Question] = {}

_tables: dict[str, Identities] = {}


class Question:
    """A question for a path's identity: when it was asked (`since`), and the answer when there is one."""

    __slots__ = ("identity", "since")

    def __init__(self) -> None:
        self.since: float = monotonic()
        self.identity: Identity | None = None


class Identities:
    """The remembered identities of one place."""

    def __init__(self) -> None:
        self._asked: dict[str, dict[str, Question]] = {}  # by path, then by ``who``
        self._writing: dict[object, str] = {}  # the files that are open for writing: their paths may change at any time
        self.uncommitted: set[str] = set()  # the paths that the target's transaction will change when it ends

    @classmethod
    def of(cls, place: str) -> Identities:
        return _tables.setdefault(place, cls())

    def recall(self, path: str, who: str, trust: float) -> Identity | None:
        """Return the last answer if its question was asked less than `trust` seconds ago, else None."""
        question = self._asked.get(path, _NONE).get(who)
        if question is None or self.is_written(path) or monotonic() - question.since >= trust:
            return None
        return question.identity

    def ask(self, path: str, who: str) -> Question:
        """Return a new question; call this before asking the origin. The `identity` that is then set in it is remembered."""
        question = Question()
        if not self.is_written(path):
            if path not in self._asked and len(self._asked) >= _LIMIT:
                for oldest in list(self._asked)[: max(1, _LIMIT // 8)]:
                    self._asked.pop(oldest, None)
            asked = self._asked.get(path)
            if asked:
                asked[who] = question
            else:
                self._asked[path] = {who: question}  # forgetting the path meanwhile forgets the question, too
        return question

    def drop(self, path: str, who: str, question: Question) -> None:
        """Drop a question whose answer is in the pool, but not its path, for ``below``: with many objects, what is kept of
        each makes garbage collections longer."""
        asked = self._asked.get(path)
        if asked is not None and len(asked) == 1 and asked.get(who) is question:
            self._asked[path] = _NONE

    def forget(self, path: str, identity: Identity | None = None) -> None:
        """Forget the path's identity and its unanswered questions; with `identity`, only if that is the one remembered."""
        asked = list(self._asked.get(path, {}).values())
        if identity is None or any(question.identity == identity for question in asked):
            self._asked.pop(path, None)

    def forget_all(self) -> None:
        self._asked.clear()

    def below(self, path: str) -> list[str]:
        """Return the remembered paths that are `path` or below it; all of them for a root."""
        root = path.rstrip("/")
        return [seen for seen in list(self._asked) if not root or seen == root or seen.startswith(f"{root}/")]

    def begin_writing(self, path: str) -> object:
        """Remember nothing of the path until end_writing(). Return the argument for that."""
        writer = object()
        self._writing[writer] = path
        self.forget(path)
        return writer

    def end_writing(self, writer: object) -> None:
        path = self._writing.pop(writer, None)
        if path is not None:
            self.forget(path)

    def is_written(self, path: str) -> bool:
        """Return True if this process is writing to the path, so that its identity must not be remembered."""
        return path in self.uncommitted or (bool(self._writing) and path in list(self._writing.values()))


def shared(identity: Identity) -> tuple[int, str, bytes] | None:
    """Return an identity as the (size, version, extra) of a name; None if it is valid for one open only, or not cacheable."""
    if identity.size is None or identity.nonce:
        return None
    rest = _rest(identity)
    return identity.size, identity.stamp, b"" if rest == _NO_REST else rest.encode()


def unshared(path: str, name: Name) -> Identity:
    """Return the identity in a name. Raises FileNotFoundError if the name says that there is no such object."""
    if not name.exists:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
    return _identity(name.size, name.version, name.extra)


@lru_cache(_SAME_MAX)
def _identity(size: int, stamp: str, extra: bytes) -> Identity:
    return _made(size, stamp, *json.loads(extra or _NO_REST))


def _rest(identity: Identity) -> str:
    """Return what else an identity has, as JSON. An encoder, which json makes for each call, takes longer."""
    within = "null"
    if identity.within is not None:
        size = "null" if identity.within.size is None else identity.within.size
        within = f"[{size},{_text(identity.within.stamp)},{_rest(identity.within)[1:]}"
    return f"[{_text(identity.etag)},{_text(identity.modified)},{within}]"


def _text(value: str | None) -> str:
    return "null" if value is None else encode_basestring_ascii(value)


def _made(size: int, stamp: str, etag: str | None, modified: str | None, within: list[Any] | None) -> Identity:
    return Identity(size, stamp, etag, modified, within=None if within is None else _made(*within))


def trust_seconds(check_files: bool | None, expiry: float | None) -> float:
    """Return for how many seconds an identity is trusted: 0 if files are checked at each open, inf with check_files=False and
    no expiry. Raises ValueError."""
    if expiry is not None and (isinstance(expiry, bool) or not isinstance(expiry, (int, float)) or not expiry >= 0):
        raise ValueError(f"folio: expiry is a number of seconds, 0 or more, or None; not {quoted(expiry)}")
    if check_files not in (None, True, False):
        raise ValueError(f"folio: check_files is True, False or None; not {quoted(check_files)}")
    if check_files or (check_files is None and expiry is None):
        return 0.0
    return math.inf if expiry is None else float(expiry)
