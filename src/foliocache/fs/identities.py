"""Which version of each path this process last saw, and for how long it may go on believing it.

One table per place (target and options), shared by all the filesystem objects that the process has for it: fsspec makes one
object per thread, and what one thread writes must not stay remembered in another. Every step is one operation of a plain
dict, so no lock is needed that a fork could copy while it is held.
"""

from __future__ import annotations

import math
from time import monotonic

from .target import Identity

_LIMIT = 1 << 16  # paths; the oldest entries make room, which costs a later open one more info()

_tables: dict[str, Identities] = {}


class Identities:
    """The remembered identities of one place."""

    def __init__(self) -> None:
        self._seen: dict[str, tuple[Identity, float]] = {}

    @classmethod
    def of(cls, place: str) -> Identities:
        return _tables.setdefault(place, cls())

    def recall(self, path: str, trust: float) -> Identity | None:
        identity, since = self._seen.get(path, (None, 0.0))
        return identity if identity is not None and monotonic() - since < trust else None

    def remember(self, path: str, identity: Identity) -> None:
        while len(self._seen) >= _LIMIT:
            self._seen.pop(next(iter(list(self._seen)), ""), None)
        self._seen.pop(path, None)
        self._seen[path] = identity, monotonic()

    def forget(self, path: str) -> None:
        self._seen.pop(path, None)

    def below(self, path: str) -> list[str]:
        """The remembered paths that are `path` or lie under it; all of them for a root."""
        root = path.rstrip("/")
        return [seen for seen in list(self._seen) if not root or seen == root or seen.startswith(f"{root}/")]


def trust_seconds(check_files: bool | None, expiry: float | None) -> float:
    """How long an identity is believed: not at all when files are checked, for ever when neither option says anything else."""
    if expiry is not None and (isinstance(expiry, bool) or not isinstance(expiry, (int, float)) or not expiry >= 0):
        raise ValueError(f"folio: expiry is a number of seconds, 0 or more, or None; not {expiry!r}")
    if check_files not in (None, True, False):
        raise ValueError(f"folio: check_files is True, False or None; not {check_files!r}")
    if check_files or (check_files is None and expiry is None):
        return 0.0
    return math.inf if expiry is None else float(expiry)
