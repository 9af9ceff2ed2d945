"""Keys of calls: equal arguments of equal types, in whatever process, have the same digest, and others have another one.

Numbers, strings, bytes, containers of them and arrays are written down with their types, so 1, True and 1.0 differ. Other
objects count by their pickles: two that are equal may then have two keys, which costs a call and is not wrong. A function
counts by its bytecode and what it has closed over.
"""

from __future__ import annotations

import hashlib
import inspect
import os
import pickle
import struct
import sys
import types
from collections.abc import Callable, Iterable
from typing import Any

_LENGTH = struct.Struct("<Q")
_MAIN = ("__main__", "__mp_main__")  # the second is what a spawned process calls its parent's main module


def where(function: Callable[..., Any]) -> str:
    """Return what a function is called in every process: its module and name, or its file if the module is the main one."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", type(function).__qualname__)
    code = getattr(function, "__code__", None)
    return f"{os.path.abspath(code.co_filename) if module in _MAIN and code is not None else module}.{name}"


def digest(value: Any) -> str:
    """Return a digest of a value.

    Raises
    ------
    TypeError
        It has no content that could be compared: it does not pickle.
    """
    return _of(value, ()).hex()


def of_code(function: Callable[..., Any]) -> str:
    """Return a digest of what a function does; "" if it has no bytecode."""
    code = getattr(function, "__code__", None)
    return "" if code is None else _code(code).hex()


def closed_over(function: Callable[..., Any]) -> list[object]:
    """Return what a function has closed over, now; a name that has no value yet is left out."""
    return [cell.cell_contents for cell in getattr(function, "__closure__", None) or () if not _is_empty(cell)]


def _is_empty(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return True
    return False


def _of(value: Any, within: tuple[int, ...]) -> bytes:
    kind = type(value)
    simple = _SIMPLE.get(kind)
    if simple is not None:
        return _hash(kind.__name__, [simple(value)])
    if kind in _CONTAINERS:
        if id(value) in within:
            raise TypeError(f"a {kind.__name__} that contains itself has no digest")
        within = (*within, id(value))
        parts = [_of(each, within) for each in (_pairs(value) if kind is dict else value)]
        return _hash(kind.__name__, sorted(parts) if kind in (set, frozenset) else parts)
    if kind is types.FunctionType:
        return _function(value, within)
    numpy = sys.modules.get("numpy")
    if numpy is not None and kind is numpy.ndarray and not value.dtype.hasobject and value.dtype.isbuiltin == 1:
        return _hash("ndarray", [value.dtype.str.encode(), repr(value.shape).encode(), value.tobytes()])
    return _hash("pickle", [_pickle(value)])


def _pairs(value: dict[object, object]) -> Iterable[object]:
    for pair in value.items():
        yield from pair


def _pickle(value: object) -> bytes:
    try:
        return pickle.dumps(value, protocol=5)
    except Exception as error:
        raise TypeError(f"{type(value).__name__} has no digest: {error}") from error


def _function(function: types.FunctionType, within: tuple[int, ...]) -> bytes:
    if id(function) in within:
        return _hash("itself", [])
    within = (*within, id(function))
    parts = [where(function).encode(), _code(function.__code__)]
    for value in (function.__defaults__, function.__kwdefaults__, *closed_over(function)):
        parts.append(_of(value, within))
    return _hash("function", parts)


def _code(code: types.CodeType) -> bytes:
    """Bytecode without places in files, which are others where a module was not read from its cached compilation."""
    parts = [code.co_code, repr((code.co_names, code.co_varnames, code.co_freevars, code.co_flags)).encode()]
    for each in code.co_consts:
        parts.append(_code(each) if inspect.iscode(each) else _of(each, ()))
    return _hash("code", parts)


def _hash(kind: str, parts: Iterable[bytes]) -> bytes:
    total = hashlib.blake2b(kind.encode(), digest_size=16)
    for part in parts:
        total.update(_LENGTH.pack(len(part)))
        total.update(part)
    return total.digest()


_CONTAINERS = (tuple, list, dict, set, frozenset)
_SIMPLE: dict[type, Callable[[Any], bytes]] = {
    type(None): lambda value: b"",
    type(...): lambda value: b"",
    bool: lambda value: bytes([value]),
    int: lambda value: value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True),
    float: lambda value: struct.pack("<d", value),
    complex: lambda value: struct.pack("<dd", value.real, value.imag),
    str: lambda value: value.encode("utf-8", "surrogatepass"),
    bytes: bytes,
    bytearray: bytes,
    types.ModuleType: lambda value: value.__name__.encode(),
}
