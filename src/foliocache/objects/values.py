"""Conversion of objects to bytes, and back without a copy.

A *head* of some bytes describes the object. Its *parts* are in one mapping, one after the other, each at a multiple of
ALIGNMENT. An object that is so small that it fits into its name, with its head, has no mapping.

Kinds, the first byte of a head:

- ``A`` an array of NumPy and ``T`` a tensor of PyTorch: order, shape and type; the bytes are the elements.
- ``U`` a tensor whose dimensions lie in another order, which follows its type; shape and bytes are in that order.
- ``B`` bytes, ``V`` a memoryview: format and shape.
- ``P`` anything else that pickles: the buffers that pickle protocol 5 leaves out of band, a table of their places, the pickle.
- ``S`` the same, if the head has room for the table and the pickle: the parts are the buffers alone.

Building all but pickles is harmless. A pickle can run any code: unpickling trusts every process that may write to the pool.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import itertools
import json
import math
import pickle
import struct
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeAlias

from ..errors import FoliocacheError
from ..sizes import quoted
from . import reducers
from .short import short_pickle
from .unmarked import tensor

if TYPE_CHECKING:
    import numpy

Loads: TypeAlias = Literal["any", "arrays"]
Build: TypeAlias = "Callable[[Any], Any]"  # of a bytes-like object

HEAD_MAX = 192  # bytes: the most ``extra`` that a name has room for
INLINE_START = 2  # bytes before the head in a ``Stored.inline``
ALIGNMENT = 64  # of parts, in bytes: the alignment of cache lines, AVX-512 and Arrow's buffers
PICKLES = b"P", b"S"  # kinds
# What is raised for a damaged head, or bytes that it does not describe. Anything else is a signal handler's, unless it is
# raised by what a pickle calls.
DAMAGE = ArithmeticError, AttributeError, LookupError, RuntimeError, SyntaxError, TypeError, ValueError, struct.error
_WHERE = struct.Struct("<Q")
_COUNT = struct.Struct("<I")
_PLACE = struct.Struct("<QQ")
_SHAPE = struct.Struct("<cB")
_ONE_LETTER = frozenset("bBhHiIlLqQnNfd?")
_QUANTIZED = frozenset({"qint8", "quint8", "qint32", "quint4x2", "quint2x4"})


@dataclasses.dataclass(frozen=True)
class Stored:
    """An object as bytes: ``parts`` are (offset, contiguous bytes), in order; ``size`` is the end of the last one."""

    kind: ClassVar[str] = "objects"  # of what it fills, in the pool's statistics
    head: bytes
    parts: Sequence[tuple[int, memoryview]]
    size: int

    @property
    def inline(self) -> bytes | None:
        """Head and content together if a name has room for both, so that no mapping is needed; else None."""
        if len(self.head) + 2 + self.size > HEAD_MAX:
            return None
        return b"i" + bytes([len(self.head)]) + self.head + b"".join(self.pieces(0, self.size))

    def pieces(self, start: int, end: int) -> Iterator[memoryview | bytes]:
        """Yield the bytes from start to end. The gaps between parts are zeros."""
        at = start
        for offset, content in self.parts:
            stop = min(offset + len(content), end)
            if stop <= at:
                continue
            if at < offset:
                yield bytes(min(offset, end) - at)
                at = min(offset, end)
            if at < stop:
                yield content[at - offset : stop - offset]
                at = stop

    def copied(self, is_writable: bool) -> memoryview:
        """Return a copy of all bytes, of which what is built is the caller's alone."""
        if self.head == b"B":
            return self.parts[0][1]  # which building copies
        content = memoryview(bytearray(self.size))
        for _ in self.read_into(0, [content]):
            pass
        return content if is_writable else content.toreadonly()

    def read_into(self, offset: int, buffers: Sequence[memoryview]) -> Iterator[object]:
        """Fill the buffers, in order, as `Source.read_into` does."""
        for buffer in buffers:
            at = 0
            for piece in self.pieces(offset, offset + len(buffer)):
                buffer[at : at + len(piece)] = piece
                at += len(piece)
            offset += len(buffer)
            yield None


def encode(value: Any, loads: Loads, key: str) -> Stored:
    """Return an object as bytes.

    Raises
    ------
    TypeError
        It cannot be kept: it cannot be pickled, or ``loads`` does not allow it.
    """
    check_loads(loads)
    stored = _plain(value)
    if stored is not None:
        return stored
    if loads == "arrays":
        raise TypeError(
            f'{quoted(key)} was to be arrays or bytes alone (loads="arrays"), and not {type(value).__name__}; '
            "arrays of objects, subclasses of arrays, types of arrays that take long to describe or that .npy files do not "
            "describe in full, and tensors with gradients, attributes or lazy conjugation are none of them"
        )
    return _pickled(value, key)


def decoder(head: bytes, loads: Loads, key: str) -> Build:
    """Return a function that builds the object with this head from its bytes.

    Raises
    ------
    ValueError
        The object is a pickle, and ``loads`` does not allow that; or the head is of an unknown kind.
    FoliocacheError
        The head is damaged.
    """
    check_loads(loads)
    if loads == "arrays" and head[:1] in PICKLES:
        raise ValueError(f'{quoted(key)} is a pickle in this pool, and loads="arrays" unpickles nothing; use another key')
    try:
        build = functools.partial(short_pickle, head, 0, len(head)) if head[:1] == b"S" else _builder(head)
    except DAMAGE as error:
        raise unreadable(key, error) from error
    if build is None:
        raise ValueError(f"{quoted(key)} is of a kind that this version does not know; delete it")
    return build


@functools.lru_cache(1024)  # many objects have the same head, as the samples of a dataset do
def _builder(head: bytes) -> Build | None:
    kind = head[:1]
    if kind == b"B":
        return bytes
    if kind == b"P":
        return _unpickler(_WHERE.unpack_from(head, 1)[0])
    shape, text = _unpack_shape(head[2:]) if kind in (b"A", b"T", b"U", b"V") else ((), "")
    if kind == b"A":
        return _array_builder(shape, text, head[1:2].decode())
    if kind == b"T":
        _check_type(text)
        return lambda view: tensor(view, text, shape)
    if kind == b"U":
        name, *order = text.split(",")
        _check_type(name)
        return functools.partial(_permuted, name, shape, [int(at) for at in order])
    if kind == b"V":
        if math.prod(shape) == 0:
            return lambda view: memoryview(view).cast("B").cast(text)  # type: ignore[call-overload]
        return lambda view: memoryview(view).cast("B").cast(text, shape)  # type: ignore[call-overload]
    return None


def _check_type(name: str) -> None:
    """Raise ValueError for a quantized type of PyTorch: one that is made of bytes has no scale, and ends the process."""
    if name in _QUANTIZED:
        raise ValueError(f"tensors of {name} are never kept")


def _permuted(name: str, shape: tuple[int, ...], order: list[int], view: Any) -> Any:
    return reducers.permuted(view, name, shape, order)


def rows(head: bytes) -> tuple[int, Callable[[Any, int], Any]] | None:
    """Return the bytes of a row of the array with this head, and a function that builds an array of some rows from their bytes
    and their number. A row is what has the same first index. None if it is not an array whose rows lie one after the other."""
    if head[:2] != b"AC":
        return None
    shape, text = _unpack_shape(head[2:])
    if not shape or 0 in shape:
        return None
    dtype, rest = _type_of(text), shape[1:]
    kind = _array_type()
    return math.prod(rest) * dtype.itemsize, lambda view, count: kind((count, *rest), dtype, view)


def head_of(shape: Sequence[int], dtype: numpy.dtype[Any]) -> bytes | None:
    """Return the head of an array of this shape and type in C order; None if that is kept in another way."""
    text = None if dtype.hasobject or 0 in (*shape, dtype.itemsize) else type_text(dtype)
    head = b"AC" + _pack_shape(shape, text) if text is not None else b""
    return head if 0 < len(head) <= HEAD_MAX - 2 else None


def _array_type() -> Any:
    import numpy

    return numpy.ndarray


def is_told(head: bytes, error: Exception) -> bool:
    """Return True if the caller is to be told that the object with this head cannot be built, and not only of the error."""
    return not isinstance(error, (MemoryError, FoliocacheError)) and (head[:1] in PICKLES or isinstance(error, DAMAGE))


def unreadable(key: str, error: Exception) -> FoliocacheError:
    """Return what to raise when a value was not built."""
    return FoliocacheError(
        f"the value of {quoted(key)} cannot be built in this process: {type(error).__name__}: {error}. "
        "Define or import what it needs here, or delete it"
    )


def check_loads(loads: str) -> None:
    """Raise ValueError if ``loads`` is none of Loads."""
    if loads not in ("any", "arrays"):
        raise ValueError(f'loads must be "any" or "arrays", not {quoted(loads)}')


def split_inline(extra: bytes) -> tuple[bytes, memoryview]:
    """Return the head and the content of a ``Stored.inline``."""
    end = INLINE_START + extra[1]
    return extra[INLINE_START:end], memoryview(extra)[end:]


# Arrays, tensors, bytes and memoryviews.


def _plain(value: Any) -> Stored | None:
    if type(value) is bytes:
        return _one(b"B", memoryview(value))
    if type(value) is memoryview:
        return _view(value)
    numpy, torch = sys.modules.get("numpy"), sys.modules.get("torch")
    if numpy is not None and type(value) is numpy.ndarray:
        return _array(value)
    if torch is not None and type(value) is torch.Tensor and reducers.is_plain(value):
        name, order = reducers.type_name(value), reducers.order_of(value)
        if order is None:
            return _fits(b"T" + b"C" + _pack_shape(value.shape, name), reducers.content(value))
        value = value.permute(order)
        return _fits(b"U" + b"C" + _pack_shape(value.shape, ",".join([name, *map(str, order)])), reducers.content(value))
    return None


def _one(head: bytes, content: memoryview) -> Stored:
    return Stored(head, [(0, content)], len(content))


def _fits(head: bytes, content: memoryview) -> Stored | None:
    return _one(head, content) if len(head) <= HEAD_MAX - 2 else None  # an empty one is kept in its name


def _view(value: memoryview) -> Stored:
    letter = value.format.removeprefix("@")
    if value.nbytes == 0 and value.ndim != 1:
        raise TypeError("an empty memoryview of several dimensions cannot be kept, as Python has no way to make one")
    if letter not in _ONE_LETTER:
        raise TypeError(f"a memoryview of format {value.format!r} cannot be kept; one of numbers or bytes can, and arrays")
    content = memoryview(value if value.c_contiguous else value.tobytes()).cast("B") if value.nbytes else memoryview(b"")
    found = _fits(b"VC" + _pack_shape(value.shape or (), letter), content)
    if found is None:
        raise TypeError("a memoryview of so many dimensions cannot be kept")
    return found


def _array(value: numpy.ndarray[Any, Any]) -> Stored | None:
    if value.dtype.hasobject:
        return None
    text = type_text(value.dtype)
    if text is None:
        return None
    is_fortran = value.flags.f_contiguous and not value.flags.c_contiguous
    order = b"F" if is_fortran else b"C"
    return _fits(b"A" + order + _pack_shape(value.shape, text), reducers.elements(value))


def type_text(dtype: numpy.dtype[Any]) -> str | None:
    """Return a type as text: what a .npy file has of it, as JSON. None if the text would not describe it completely."""
    import numpy

    try:
        if numpy.lib.format.drop_metadata(dtype) is not dtype:  # NumPy would warn that it leaves them out
            return None
        text = json.dumps(numpy.lib.format.dtype_to_descr(dtype), ensure_ascii=False, separators=(",", ":"))
        same = _type_of(text) == dtype and _type_of(text).isalignedstruct == dtype.isalignedstruct
    except (ValueError, TypeError, UserWarning):
        return None
    return text if same and type(dtype).__module__.startswith("numpy") else None


@functools.lru_cache(256)  # half of the time of an array's first read in a process, and most arrays are of few types
def _type_of(text: str) -> numpy.dtype[Any]:
    import numpy

    # ast.literal_eval, which reads the text of a .npy file, fails in threads until Python 3.11 (CPython's issue 106905).
    dtype = numpy.lib.format.descr_to_dtype(_with_tuples(json.loads(text)))
    if dtype.hasobject:  # its elements are addresses, and these bytes may be anyone's
        raise ValueError(f"arrays of {dtype} are never kept")
    return dtype


def _with_tuples(described: Any) -> Any:
    """Return a type as NumPy wants it: with tuples, of which JSON has made lists."""
    if not isinstance(described, list):
        return described
    if len(described) == 2 and isinstance(described[1][0], int):  # a type and a shape, and no two fields
        return _with_tuples(described[0]), tuple(described[1])
    return [
        (tuple(name) if isinstance(name, list) else name, _with_tuples(kind), *map(tuple, shape))
        for name, kind, *shape in described
    ]


def _array_builder(shape: tuple[int, ...], text: str, order: str) -> Build:
    import numpy

    kind, dtype = numpy.ndarray, _type_of(text)
    if order == "C":
        return lambda view: kind(shape, dtype, view)
    return lambda view: kind(shape, dtype, view, order="F")


def _pack_shape(shape: Sequence[int], text: str) -> bytes:
    encoded = text.encode("utf-8", "surrogatepass")
    return bytes([len(shape)]) + b"".join(_WHERE.pack(n) for n in shape) + encoded


def _unpack_shape(packed: bytes) -> tuple[tuple[int, ...], str]:
    end = 1 + _WHERE.size * packed[0]
    shape = tuple(n for (n,) in _WHERE.iter_unpack(packed[1:end]))
    return shape, packed[end:].decode("utf-8", "surrogatepass")


# Pickles.


def _pickled(value: Any, key: str) -> Stored:
    if inspect.iscoroutine(value):
        value.close()  # otherwise Python warns that it was never awaited
    if inspect.isgenerator(value) or inspect.iscoroutine(value) or inspect.isasyncgen(value):
        raise TypeError(
            f"the value of {quoted(key)} is of type {type(value).__name__}, which has no content to keep; return a list or an "
            "array" + (", or use get_or_create_async" if inspect.iscoroutine(value) else "")
        )
    try:
        stream, buffers = reducers.dumps(value)
    except (MemoryError, FoliocacheError):
        raise
    except Exception as error:
        raise TypeError(
            f"the value of {quoted(key)}, {type(value).__name__}, cannot be kept, as it does not pickle: {error}"
        ) from error
    return _with_buffers(stream, buffers)


def _with_buffers(stream: bytes, buffers: Sequence[memoryview]) -> Stored:
    starts = list(itertools.accumulate((_aligned(len(each)) for each in buffers), initial=0))
    places = [_PLACE.pack(start, len(each)) for start, each in zip(starts, buffers, strict=False)]
    head = b"S" + bytes([min(len(buffers), 255)]) + b"".join(places) + stream
    if starts[-1] and len(head) <= HEAD_MAX:
        return Stored(head, [*zip(starts, buffers, strict=False)], starts[-2] + len(buffers[-1]))
    tail = memoryview(_COUNT.pack(len(buffers)) + b"".join(places) + stream)
    parts = [*zip(starts, buffers, strict=False), (starts[-1], tail)]
    return Stored(b"P" + _WHERE.pack(starts[-1]), parts, starts[-1] + len(tail))


def _aligned(size: int) -> int:
    return math.ceil(size / ALIGNMENT) * ALIGNMENT


def _unpickler(start: int) -> Build:
    def build(content: Any) -> Any:
        view = memoryview(content)
        (count,) = _COUNT.unpack_from(view, start)
        table = start + _COUNT.size
        stream = table + count * _PLACE.size
        places = _PLACE.iter_unpack(view[table:stream])
        return pickle.loads(view[stream:], buffers=[view[at : at + size] for at, size in places])

    return build
