"""The text that identifies an object's place: the same in every process for the same place, and different for different ones.

If two places shared a key, readers of one would get the other's bytes. So keys are made of values: the text of a string, the
absolute form of a path, the fields of a plain data object. An object without such a value gets a nonce, which is valid as long
as the object exists and is never used again, unlike its ``id()`` and the address in its ``repr()``.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import itertools
import json
import operator
import os
import secrets
import weakref
from collections.abc import Iterable
from typing import Any

from fsspec import AbstractFileSystem
from fsspec.implementations.memory import MemoryFileSystem

KEY_MAX, VERSION_MAX = 280, 90  # bytes of text that the pool keeps of each object, for listing and forgetting it

# Options that say how to access a place, or with which secret, but not which place. Two processes that differ only in them
# share pages; each must still ask the target for the identity, with its own credentials, before it gets a page.
MANNERS = frozenset(
    {
        "secret",
        "token",
        "password",
        "account_key",
        "sas_token",
        "credential",
        "client_secret",
        "asynchronous",
        "loop",
        "batch_size",
        "skip_instance_cache",
        "use_listings_cache",
        "listings_expiry_time",
        "max_paths",
        "block_size",
        "default_block_size",
        "cache_type",
        "default_cache_type",
        "cache_options",
        "default_fill_cache",
        "max_concurrency",
        "retries",
        "timeout",
        "auto_mkdir",
    }
)


def short(text: str, most: int) -> str:
    """Return text in at most ``most`` bytes: itself if it fits, else its beginning, for people, and a digest of all of it.

    Names that are not UTF-8 (lone surrogates in Python) are escaped, and always have the digest, because another name may be
    spelled like the escaped one.
    """
    if text.isascii() and len(text) <= most:
        return text
    exact = text.encode(errors="surrogatepass")
    shown = text.encode(errors="backslashreplace")
    if len(shown) <= most and shown == exact:
        return text
    return f"{shown[: most - 33].decode(errors='ignore')}#{hashlib.sha256(exact).hexdigest()[:32]}"


def digest(*values: Any) -> str:
    """Return 16 hexadecimal digits for the values: the same in every process, or unique to this process if a value has a
    nonce."""
    text = json.dumps([_plain(value) for value in values], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def suffix(fs: AbstractFileSystem, manners: Iterable[str] = (), attributes: Iterable[str] = ()) -> str:
    """Return the suffix of keys if options choose another place (an endpoint, a user's own root), else "".

    `manners` are further options of the filesystem that do not choose the place. `attributes` are attributes of the filesystem
    that do, and that it may have taken from the environment.
    """
    ignored = MANNERS.union(manners)
    options = {name: value for name, value in fs.storage_options.items() if name not in ignored}
    found = {name: getattr(fs, name, None) for name in attributes}
    if not fs.storage_args and not options and not any(found.values()):
        return ""
    return f"?{digest(fs.storage_args, options, found)}"


def who(fs: AbstractFileSystem) -> str:
    """Return a digest of the class and all options, secrets included: identities are not shared between accounts."""
    return digest(_name(type(fs)), fs.storage_args, fs.storage_options)


def _plain(value: Any) -> Any:
    """Return a value for JSON that differs if the type or the content differs."""
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int, float):
        if isinstance(value, kind):
            return [kind.__name__, str.__str__(value) if kind is str else kind.__repr__(value)]
    if hasattr(value, "__index__") and not isinstance(value, type):
        return ["int", int.__repr__(operator.index(value))]
    if isinstance(value, (bytes, bytearray)):
        return ["bytes", bytes(value).hex()]
    if isinstance(value, dict):
        return ["dict", sorted(([_plain(key), _plain(one)] for key, one in value.items()), key=json.dumps)]
    if isinstance(value, (list, tuple)):
        return ["list", *map(_plain, value)]
    if isinstance(value, (set, frozenset)):
        return ["set", *sorted(map(_plain, value), key=json.dumps)]
    return _object(value)


def _object(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        path = os.fspath(value)
        return _plain(os.path.abspath(path) if hasattr(value, "is_absolute") else path)
    if isinstance(value, AbstractFileSystem) and not isinstance(value, MemoryFileSystem):
        return ["filesystem", _name(type(value)), suffix(value)]
    if type(value).__module__ != "__main__":  # another program's __main__ may have a class with the same name
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return [_name(type(value)), *(_plain(getattr(value, field.name)) for field in dataclasses.fields(value))]
        if not isinstance(value, type) and hasattr(type(value), "__attrs_attrs__"):
            return [_name(type(value)), *(_plain(getattr(value, field.name)) for field in type(value).__attrs_attrs__)]
    return ["object", nonce_of(value)]


def _name(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


_nonces: dict[int, tuple[Any, str]] = {}  # by id(), of existing objects
_counter = itertools.count()
_private: tuple[int, str] = (0, "")


def nonce() -> str:
    """Return a text that is unique among all processes, now and later."""
    global _private
    if _private[0] != os.getpid():
        _private = (os.getpid(), secrets.token_hex(8))
    return f"{_private[1]}-{next(_counter)}"


def nonce_of(value: Any) -> str:
    """Return the nonce of an object, the same as long as it exists; a new one each time if it has no weak references."""
    known = _nonces.get(id(value))
    if known is not None and known[0]() is value:
        return known[1]
    at, word = id(value), nonce()
    with contextlib.suppress(TypeError):
        _nonces[at] = weakref.ref(value, lambda gone: _drop(at, gone)), word
    return word


def _drop(at: int, gone: Any) -> None:
    if _nonces.get(at, (None,))[0] is gone:
        _nonces.pop(at, None)
