"""Parsing and formatting of sizes, checking of numbers that callers pass, and quoting of what they pass in messages."""

import operator
import re
import reprlib
from typing import SupportsIndex

_UNITS = {"": 1, "b": 1}
for _power, _letter in enumerate("kmgt", start=1):
    _UNITS |= {_letter: 1024**_power, f"{_letter}ib": 1024**_power, f"{_letter}b": 1000**_power}

_QUOTED_MAX = 200  # characters


class _Quoting(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = self.maxlong = _QUOTED_MAX

    def repr_int(self, x: int, level: int) -> str:
        """Python refuses to write integers of more than some 4,000 digits."""
        return super().repr_int(x, level) if x.bit_length() <= 4 * _QUOTED_MAX else f"an integer of {x.bit_length()} bits"


_quoting = _Quoting()


def quoted(value: object) -> str:
    """Return what a value is in a message: its repr, without its middle if that is long."""
    return _quoting.repr(value)


def parse_size(value: SupportsIndex | str, what: str = "size") -> int:
    """Return bytes, from a number with ``__index__`` (an int, numpy's integers) or a string such as "4GiB", "64 MiB", "1.5G"
    (1024-based) or "500MB" (1000-based).

    Raises ValueError for anything else, and for less than 1.
    """
    size = _parse(value, what) if isinstance(value, str) else parse_count(value, what, "bytes or a string such as '4GiB'")
    if size < 1:
        raise ValueError(f"{what} must be at least 1 byte, not {quoted(value)}")
    return size


def parse_share(text: str, what: str = "size") -> float:
    """Return a share, above 0 and at most 1, from a string such as "25%". Raises ValueError."""
    match = re.fullmatch(r"\s*(\d{1,3}(?:\.\d{1,30})?)\s*%\s*", text)
    share = float(match[1]) / 100 if match else 0.0
    if not 0 < share <= 1:
        raise ValueError(
            f"{what} {quoted(text)} is not a share; write a number above 0 and at most 100 before the '%', such as '25%'"
        )
    return share


def parse_count(value: SupportsIndex, what: str, kind: str = "a whole number") -> int:
    """Return a number with ``__index__`` as an int. Raises ValueError for anything else, and for True and False."""
    try:
        if isinstance(value, bool):
            raise TypeError
        return operator.index(value)
    except TypeError:
        raise ValueError(f"{what} must be {kind}, not {quoted(value)}") from None


def _parse(text: str, what: str) -> int:
    match = re.fullmatch(r"\s*(\d{1,30}(?:\.\d{1,30})?)\s*([a-z]*)\s*", text.lower())
    if not match or match[2] not in _UNITS:
        raise ValueError(
            f"{what} {quoted(text)} is not a size; write bytes, or a number with KiB, MiB, GiB or TiB, such as '4GiB'"
        )
    return int(float(match[1]) * _UNITS[match[2]]) if "." in match[1] else int(match[1]) * _UNITS[match[2]]


def format_size(n: float) -> str:
    """Return n bytes as text, in powers of 1024: "4 GiB", "1.5 MiB", "293 KiB"; from 2^80 on only the power, "2^80 B"."""
    if n >= 1 << 80:
        return f"2^{int(n).bit_length() - 1} B"
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    while abs(n) >= 1024 and len(units) > 1:
        n /= 1024
        units.pop(0)
    unit = units[0]
    return f"{n:.0f} {unit}" if n == int(n) or abs(n) >= 100 else f"{n:.1f} {unit}"


def integer(n: SupportsIndex, what: str) -> int:
    """Return n as an int: anything with ``__index__``, such as numpy's integers, but no float and no string. Raises
    TypeError."""
    try:
        return operator.index(n)
    except TypeError:
        raise TypeError(f"{what} must be an integer, not {quoted(n)}") from None
