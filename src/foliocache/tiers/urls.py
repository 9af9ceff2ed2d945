"""Tiers as text: ``disk:/nvme/foliocache?size=1TiB``. Each is opened once in a process, whichever pools use it."""

from __future__ import annotations

import math
import os
import urllib.parse
from collections.abc import Callable, Sequence
from typing import TypeAlias

from ..sizes import parse_size, quoted
from .guard import Guard
from .tier import Tier

Options: TypeAlias = dict[str, str]
Make: TypeAlias = Callable[[], Tier]

TIMEOUT_MAX = 3600.0
LEASE = 2.0  # seconds that other machines wait for one that is fetching
_guards: dict[str, Guard] = {}  # this process's, and its parents'


def split(tiers: str | Sequence[str]) -> tuple[str, ...]:
    """Return tiers as a tuple of texts: a sequence of them, or one text with commas between them.

    Raises ValueError for what is no tier; nothing is opened.
    """
    if isinstance(tiers, str):
        texts = [one.strip() for one in tiers.split(",")] if tiers.strip() else []
    elif isinstance(tiers, Sequence) and not isinstance(tiers, bytes | bytearray):
        texts = list(tiers)
    else:
        raise ValueError(f"tiers must be texts such as 'disk:/nvme/foliocache?size=1TiB', in a sequence, not {quoted(tiers)}")
    for text in texts:
        if not isinstance(text, str):
            raise ValueError(f"a tier is a text such as 'disk:/nvme/foliocache?size=1TiB', not {quoted(text)}")
        _parsed(text)
    if len(set(texts)) < len(texts):
        raise ValueError(f"a tier is given twice: {', '.join(texts)}")
    return tuple(texts)


def guard_of(text: str) -> Guard:
    """Return this process's guard of a tier, which is opened now if that is possible. Raises ValueError for what is no tier."""
    found = _guards.get(text)
    if found is None:
        found = _guards.setdefault(text, Guard(shown(text), *_parsed(text)))
    found.open()
    return found


def shown(text: str) -> str:
    """Return a tier's text without its password, also if the text is wrong because of what the password has."""
    scheme, separator, rest = text.partition("://")
    user, at, place = (rest if _password(text) is None else rest.partition("?")[0]).rpartition("@")
    if not at or ":" not in user:
        return text
    return f"{scheme}{separator}{user.partition(':')[0]}:***@{place}{text[len(scheme + separator + user + at + place) :]}"


def _password(text: str) -> str | None:
    try:
        return urllib.parse.urlsplit(text).password
    except ValueError:
        return None


def folder_of(text: str) -> str:
    """Return the folder of a disk tier, given as a path or as a tier. Raises ValueError if it is another tier."""
    if not text.startswith("disk:"):
        if ":/" in text or not text:
            raise ValueError(f"{quoted(shown(text))} is not a tier on a disk")
        return os.path.abspath(text)
    _parsed(text)
    return urllib.parse.unquote(urllib.parse.urlsplit(text).path)


def _parsed(text: str) -> tuple[Make, float, int]:
    """Return the function that opens a tier, its timeout, and its rate."""
    scheme = text.partition(":")[0]
    kind = KINDS.get(scheme)
    if kind is None:
        raise ValueError(f"tier {quoted(shown(text))}: there are {', '.join(f'{one}:' for one in KINDS)}")
    try:
        parts = urllib.parse.urlsplit(text)
        is_place = (parts.port is None or parts.port > 0) and ("@" in parts.netloc or "@" not in text or not parts.netloc)
    except ValueError:
        is_place = False
    if not is_place or parts.fragment or "\0" in urllib.parse.unquote(text):
        raise ValueError(
            f"tier {quoted(shown(text))} is not a URL: a port is a number from 1 to 65535, an address of IPv6 is written in "
            "[], and /, ?, # and @ in a name or a password as %2F, %3F, %23 and %40"
        )
    try:
        pairs = urllib.parse.parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise ValueError(f"tier {quoted(shown(text))}: options are written as ?size=1TiB&timeout=0.5") from None
    options = dict(pairs)
    if len(options) < len(pairs):
        raise ValueError(f"tier {quoted(shown(text))}: an option is given twice")
    rate = parse_size(options.pop("rate"), "rate") if "rate" in options else 0
    make, timeout = kind(text, parts, options)
    if options:
        raise ValueError(f"tier {quoted(shown(text))}: there is no option {quoted(min(options))}")
    return make, timeout, rate


def _disk(text: str, parts: urllib.parse.SplitResult, options: Options) -> tuple[Make, float]:
    path = urllib.parse.unquote(parts.path)
    if parts.netloc or not os.path.isabs(path):
        raise ValueError(f"tier {quoted(text)}: write disk: and the absolute path of a folder, such as disk:/nvme/foliocache")
    size = parse_size(options.pop("size"), "size") if "size" in options else None
    slot = parse_size(options.pop("slot"), "slot") if "slot" in options else None
    direct = _choice(text, options, "direct", {"yes": True, "no": False, "auto": None}, "auto")
    any_owner = _choice(text, options, "any_owner", {"yes": True, "no": False}, "no")
    timeout = _seconds(text, options, 1.0)

    def make() -> Tier:
        from .disk import DiskTier

        return DiskTier(path, size, slot=slot, direct=direct, any_owner=bool(any_owner))

    if size is not None or slot is not None:
        from .layout import check

        check(size, slot)
    return make, timeout


def _valkey(text: str, parts: urllib.parse.SplitResult, options: Options) -> tuple[Make, float]:
    if not parts.hostname:
        raise ValueError(f"tier {quoted(shown(text))}: write {parts.scheme}:// and a host, such as {parts.scheme}://cache:6379")
    if parts.path.strip("/") and not parts.path[1:].isdecimal():
        raise ValueError(f"tier {quoted(shown(text))}: behind the host there is nothing, or the number of a database")
    cluster = _choice(text, options, "cluster", {"yes": True, "no": False}, "no")
    ca, prefix = options.pop("ca", None), options.pop("prefix", "folio")
    if ca is not None and parts.scheme not in ("valkeys", "rediss"):
        raise ValueError(f"tier {quoted(shown(text))}: ca is for TLS, so write {parts.scheme}s://")
    if "{" in prefix or "}" in prefix:
        raise ValueError(f"tier {quoted(shown(text))}: a prefix has no braces, by which a cluster chooses the node")
    timeout = _seconds(text, options, 0.05)
    lease = _seconds(text, options, LEASE, "lease", may_be_zero=True)
    url = urllib.parse.urlunsplit(parts._replace(query=""))

    def make() -> Tier:
        from .valkey import ValkeyTier

        return ValkeyTier(url, timeout, cluster=bool(cluster), ca=ca, prefix=prefix, lease=lease)

    return make, timeout


def _choice(text: str, options: Options, name: str, values: dict[str, bool | None], default: str) -> bool | None:
    given = options.pop(name, default)
    if given not in values:
        raise ValueError(f"tier {quoted(shown(text))}: {name} is one of {', '.join(values)}, not {quoted(given)}")
    return values[given]


def _seconds(text: str, options: Options, default: float, name: str = "timeout", may_be_zero: bool = False) -> float:
    given = options.pop(name, None)
    if given is None:
        return default
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds <= TIMEOUT_MAX or (seconds == 0 and not may_be_zero):
        least = "from 0 (never) to" if may_be_zero else "above 0, at most"
        what = f"a number of seconds {least} {TIMEOUT_MAX:g}"
        raise ValueError(f"tier {quoted(shown(text))}: {name} is {what}, not {quoted(given)}")
    return seconds


KINDS: dict[str, Callable[[str, urllib.parse.SplitResult, Options], tuple[Make, float]]] = {
    "disk": _disk,
    "valkey": _valkey,
    "valkeys": _valkey,
    "redis": _valkey,
    "rediss": _valkey,
}
