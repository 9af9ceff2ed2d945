"""Keys of calls: arguments that are equal and of equal types have the same digest in every process, others a different one.

Numbers, strings, bytes, containers of them and arrays are hashed with their types, so 1, True and 1.0 differ. Other objects are
hashed by their pickles: two that are equal may then have two keys, which costs a call and is not wrong. A function is hashed by
its bytecode, its defaults and the variables that it has closed over.
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

from . import reducers

_LENGTH = struct.Struct("<Q")
_MAIN = ("__main__", "__mp_main__")  # the second is the name of the parent's main module in a spawned process


def where(function: Callable[..., Any]) -> str:
    """Return a function's name, the same in every process: its module (its file, for the main module) and qualified name."""
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", type(function).__qualname__)
    code = getattr(function, "__code__", None)
    return f"{os.path.abspath(code.co_filename) if module in _MAIN and code is not None else module}.{name}"


def digest(value: Any) -> str:
    """Return a digest of a value.

    Raises
    ------
    TypeError
        The value has no digest, because it cannot be pickled, or contains itself.
    """
    return _of(value, ()).hex()


def of_code(function: Callable[..., Any]) -> str:
    """Return a digest of a function's bytecode; "" if it has none."""
    code = getattr(function, "__code__", None)
    return "" if code is None else _code(code).hex()


def closed_over(function: Callable[..., Any]) -> list[object]:
    """Return the current values of the variables that a function has closed over; one without a value is left out."""
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
    torch = sys.modules.get("torch")
    if torch is not None and kind is torch.Tensor and reducers.is_plain(value):
        shape = repr(tuple(value.shape)).encode()
        return _hash("tensor", [reducers.type_name(value).encode(), shape, bytes(reducers.content(value))])
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
    """Return a digest of bytecode without file names and line numbers, which may differ between processes."""
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
