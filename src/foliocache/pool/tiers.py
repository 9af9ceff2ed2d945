"""Which tiers a pool has: a record in a file beside the pool's, so that all its processes agree.

The record is written under another name and linked, so it is whole or not there. It belongs to one pool, that of its inode, and
to the pool's owner: others' records are ignored.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
from collections.abc import Sequence
from typing import TYPE_CHECKING

from ..errors import PoolError, PoolMismatchError
from .files import OPEN_FLAGS, hidden, inode, unlink

if TYPE_CHECKING:
    from ..tiers.guard import Guard

LOOK_AGAIN = 1.0  # seconds after which a process that knows of no tiers looks for some again
PAUSE = 60.0  # seconds more, if there are some that cannot be used
_TRIES = 100
_RECORD_MAX = 64 << 10  # bytes


def settle(name: str, path: str, wanted: str | Sequence[str] | None) -> tuple[Guard, ...]:
    """Return the tiers of a pool. wanted: those that its user has given; None to take what the pool has.

    Raises
    ------
    PoolMismatchError
        The pool has other tiers.
    PoolError
        The record cannot be written.
    ValueError
        What was given is no tier.
    """
    if wanted is None and not os.path.lexists(hidden(path, "tiers")):
        return ()
    from ..tiers import urls  # here: few pools have tiers

    texts = None if wanted is None else urls.split(wanted)
    found = _agreed(name, path, texts)
    if texts is not None and found != texts:
        shown = ", ".join(map(urls.shown, found)) or "none"
        raise PoolMismatchError(
            f"pool {name!r} has other tiers than those given; it has: {shown}. Leave tiers out, or remove the pool"
        )
    return tuple(map(urls.guard_of, found))


def recorded(path: str) -> tuple[str, ...] | None:
    """Return the tiers that the record of a pool's file names; None if there is no record, or one that is not this pool's."""
    try:
        owner = os.stat(path)
        with open(os.open(hidden(path, "tiers"), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            if os.fstat(file.fileno()).st_uid != owner.st_uid:
                return None
            told = json.loads(file.read(_RECORD_MAX))
        tiers = told["tiers"]
        if told["pool"] != list(inode(owner)) or not all(isinstance(one, str) for one in tiers):
            return None
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return tuple(tiers)


def _agreed(name: str, path: str, texts: tuple[str, ...] | None) -> tuple[str, ...]:
    """Return what the record says, after writing it if there is none and ``texts`` are given."""
    for _ in range(_TRIES):
        found = recorded(path)
        if found is not None or not texts:
            return found or ()
        try:
            _write(path, texts)
        except OSError as error:
            raise PoolError(f"the tiers of pool {name!r} cannot be recorded beside {path}: {error.strerror}") from None
    raise PoolError(
        f"the record of the tiers of pool {name!r} is replaced all the time; does another user write to its folder?"
    )


def _write(path: str, texts: tuple[str, ...]) -> None:
    record, draft = hidden(path, "tiers"), hidden(path, secrets.token_hex(8))  # such drafts are removed with those of pools
    owner = os.stat(path)
    fd = os.open(draft, OPEN_FLAGS | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with open(fd, "wb") as file:
            os.fchmod(file.fileno(), owner.st_mode & 0o666)
            file.write(json.dumps({"pool": inode(owner), "tiers": texts}).encode())
        if recorded(path) is None:
            with contextlib.suppress(FileExistsError, FileNotFoundError):  # others were faster; look again
                if os.path.lexists(record):
                    os.replace(draft, record)
                else:
                    os.link(draft, record)
    finally:
        unlink(draft)
