"""Keys of calls: arguments that are equal and of equal types have the same digest in every process, others a different one.

Numbers, strings, bytes, containers of them and arrays are hashed with their types, so 1, True and 1.0 differ. Other objects are
hashed by their pickles: two that are equal may then have two keys, which costs a call and is not wrong. A function is hashed by
its bytecode, its defaults and the variables that it has closed over; a callable that holds one (a bound method, ``partial``,
``lru_cache``, a memoized function) by that function and what else it holds.
"""

from __future__ import annotations

import enum
import functools
import hashlib
import inspect
import io
import os
import pickle
import struct
import sys
import types
import weakref
from collections.abc import Callable, Iterable
from typing import Any

from . import reducers
from .values import type_text

_LENGTH = struct.Struct("<Q")
_WORTH = 16  # steps: what takes fewer is digested each time
_MAIN = ("__main__", "__mp_main__")  # the second is the name of the parent's main module in a spawned process


def where(function: Callable[..., Any]) -> str:
    """Return a function's name, the same in every process: its module (its file, for the main module) and qualified name. Of a
    callable that holds a function, as a bound method does, it is that function's."""
    function = innermost(function)
    module, name = getattr(function, "__module__", None), getattr(function, "__qualname__", type(function).__qualname__)
    file = _file(function) if module in _MAIN else None
    return f"{module if file is None else _absolute(file)}.{name}"


@functools.lru_cache(maxsize=256)
def _absolute(file: str) -> str:
    """Return a file's path, which a later change of the working directory does not change."""
    return os.path.abspath(file)


def _has_name(value: type | types.FunctionType) -> bool:
    """Return True for what is defined at the top of a module or a class, as pickle would find it."""
    return all(each.isidentifier() for each in value.__qualname__.split("."))


def _is_found(value: type | types.FunctionType) -> bool:
    """Return True if a module has this value under its name, and not another one or none."""
    found: Any = sys.modules.get(value.__module__)
    for each in value.__qualname__.split("."):
        found = getattr(found, each, None)
    return found is value


def _file(function: Any) -> str | None:
    """Return the file of a function of the main module."""
    seen: set[int] = set()
    while type(function) is types.FunctionType and "__wrapped__" in vars(function) and id(function) not in seen:
        seen.add(id(function))
        function = vars(function)["__wrapped__"]  # the decorator may be in another file
    code = getattr(function, "__code__", None)
    return getattr(sys.modules.get(function.__module__), "__file__", None) if code is None else code.co_filename


def digest(value: Any) -> str:
    """Return a digest of a value.

    Raises
    ------
    TypeError
        The value has no digest, because it cannot be pickled, or contains itself.
    """
    return _of(value, (), _NOTHING if type(value) in _SIMPLE else _Walk()).hex()


def of_callable(function: Callable[..., Any]) -> str:
    """Return a digest of a callable: of what it runs and of what it holds. Raises TypeError."""
    functions, held = taken_apart(function)
    if not functions or type(function) is types.FunctionType:
        return digest(function)
    return _of([where(function), functions, held], (), _Walk(is_callable=True)).hex()


def of_held(values: list[object]) -> str:
    """Return a digest of what a callable holds: as `digest`, but functions inside objects are hashed by their code, too. Raises
    TypeError."""
    return _of(values, (), _Walk(is_callable=True)).hex()


def taken_apart(
    function: Callable[..., Any], with_wrapped: bool = False, seen: tuple[int, ...] = ()
) -> tuple[list[types.FunctionType], list[object]]:
    """Return the functions that a callable runs, by whose code and closures it is known, and what else it holds: arguments of
    ``partial``, ``self``, or the callable itself if it is an object.

    A decorated function (``__wrapped__``) is known by its closure, or the object, which has the original. If it has not, or
    ``with_wrapped``, the original is one of the functions, too.
    """
    held: list[object] = []
    while (inside := _inside(function)) is not None:
        function = inside[0]
        held += inside[1]
    if _is_a(function, _BUILT_IN):
        holder = getattr(function, "__self__", None)
        return [], held if holder is None or isinstance(holder, types.ModuleType) else [*held, holder]
    functions: list[types.FunctionType] = [function] if type(function) is types.FunctionType else []
    is_object = not (functions or _is_a(function, type))
    inner = _methods(function)
    original = _original(function)
    if original is not None and (with_wrapped or not (is_object or _has_closed_over(function, original))):
        inner.append(original)
    for each in inner if id(function) not in seen else ():
        more, others = taken_apart(each, with_wrapped, (*seen, id(function)))
        functions, held = functions + more, held + others
    return functions, [*held, function] if is_object else held


def is_decorated(function: Callable[..., Any]) -> bool:
    """Return True if a callable has the parameters of another one, which it need not call with the arguments that it gets."""
    function = innermost(function)
    is_itself = _original(function) is not None or getattr(function, "__signature__", None) is not None
    return is_itself or any(is_decorated(each) for each in _methods(function))


def _methods(function: Any) -> list[Any]:
    """Return what Python calls when an object or a class is called, as far as that is not built in."""
    if type(function) is types.FunctionType:
        return []
    torch = sys.modules.get("torch")
    is_module = torch is not None and _is_a(function, torch.nn.Module)
    kind, names = (function, ("__new__", "__init__")) if _is_a(function, type) else (type(function), ("__call__",))
    found = [getattr(kind, name, None) for name in (("forward",) if is_module else names)]
    return [each for each in found if callable(each) and not _is_a(each, (*_BUILT_IN, type))]


def _is_a(value: object, kinds: type | tuple[type, ...]) -> bool:
    """Return True if a value is of one of these types itself. A proxy says that it is what it stands for (``__class__``), and
    does something else when it is called."""
    return issubclass(type(value), kinds)


def _original(function: object) -> Callable[..., Any] | None:
    """Return what ``functools.wraps`` says that a function or an object stands for."""
    original: Any = getattr(function, "__wrapped__", None)
    return original if callable(original) else None


def _has_closed_over(function: Callable[..., Any], value: object) -> bool:
    return any(value is each for each in closed_over(function))


class _Keywords:
    """Keywords of a ``partial``, whose order does not count, as that of a call's does not."""

    def __init__(self, values: dict[str, object]) -> None:
        self.values = values


def innermost(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return the callable that a callable calls in the end, where each of those between only holds the next one."""
    while (inside := _inside(function)) is not None:
        function = inside[0]
    return function


def _inside(function: object) -> tuple[Callable[..., Any], list[object]] | None:
    """Return the callable that another one calls, and what the other one holds beside it; None if it calls none."""
    if type(function) is types.MethodType:
        return function.__func__, [function.__self__]
    if _is_a(function, staticmethod):
        return function.__func__, []  # type: ignore[attr-defined]
    if type(function) is functools.partial:
        return function.func, [function.args, _Keywords(function.keywords)]
    if type(function) is _LRU_CACHE:
        return function.__wrapped__, []
    if type(function) is types.FunctionType and function in memoized:
        return function.__wrapped__, [_Memoized]  # type: ignore[attr-defined]
    return None


def of_code(function: Callable[..., Any], with_wrapped: bool = False) -> str:
    """Return a digest of the bytecode that a callable runs (`taken_apart`); "" if it has none."""
    codes = [_code(each.__code__) for each in taken_apart(function, with_wrapped)[0]]
    return (codes[0] if len(codes) == 1 else _hash("codes", codes)).hex() if codes else ""


def defaults(function: types.FunctionType) -> dict[str, object]:
    """Return the defaults of a function's own parameters by their names, whatever it says that its parameters are."""
    code, values = function.__code__, function.__defaults__ or ()
    names = code.co_varnames[: code.co_argcount]
    return dict(zip(names[len(names) - len(values) :], values, strict=True)) | (function.__kwdefaults__ or {})


def closed_over(function: Callable[..., Any]) -> list[object]:
    """Return the current values of the variables that a function has closed over; for one without a value, a mark."""
    return [_WithoutValue if _is_empty(cell) else cell.cell_contents for cell in getattr(function, "__closure__", None) or ()]


class _WithoutValue:
    """Stands for a variable that has no value: which one has none makes a difference."""


class _Memoized:
    """Stands for what a memoized function holds beside the original: no bound method has it as its object."""


def _is_empty(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return True
    return False


class _Walk:
    """What is known of the values of one digest. A value that is within several others is looked at once, or the time for
    a structure like ``[x, x]``, of which x is one, too, would double with each level.

    Only a value from which no way leads back to one that it is within has the same digest everywhere. From the outermost
    function or class on, the others are known by their numbers when they are met again; what is around those functions and
    classes has one digest wherever it is around them."""

    __slots__ = "again", "around", "classes", "is_callable", "is_following", "known", "met", "steps"

    def __init__(self, is_callable: bool = False) -> None:
        self.is_callable = is_callable
        self.known: dict[int, tuple[object, bytes]] = {}  # with the value, since another one could get its number
        self.around: dict[int, tuple[object, bytes]] = {}
        self.classes: dict[int, tuple[type, bytes]] = {}
        self.steps = 0  # what was done: a digest that takes few is not worth its place
        self.again = 0  # how often what was found depends on what it is within
        self.is_following = False  # within a function or a class
        self.met: dict[int, tuple[object, int]] = {}

    def follow(self, digest: Callable[[Any, tuple[int, ...], _Walk], bytes], value: object, within: tuple[int, ...]) -> bytes:
        """Return the digest of what may lead back to itself."""
        if self.is_following:
            return digest(value, within, self)
        self.is_following = True
        found = digest(value, (), self)
        self.is_following = False
        self.met.clear()
        return found

    def meet(self, value: object) -> None:
        """Give a value a number. Which values have one must show in the digest: all that depend on what they are within, and
        none twice."""
        self.met.setdefault(id(value), (value, len(self.met)))

    def met_again(self, value: object) -> bytes | None:
        """Return a digest of what was met from the outermost function or class on; None if it was not, or is known."""
        found = self.met.get(id(value))
        if found is None:
            return None
        self.again += 1
        return _hash("met", [_LENGTH.pack(found[1])])


_NOTHING = _Walk()  # of values that need none


def _of(value: Any, within: tuple[int, ...], walk: _Walk) -> bytes:
    kind = type(value)
    simple = _SIMPLE.get(kind)
    if simple is not None:
        return _hash(kind.__name__, [simple(value)])
    found = walk.known.get(id(value))
    if found is None and not walk.is_following:
        found = walk.around.get(id(value))
    if found is not None:
        return found[1]
    if walk.met and (met := walk.met_again(value)) is not None:
        return met
    steps, again = walk.steps, walk.again
    if kind in _CONTAINERS:
        if id(value) in within:
            raise TypeError(f"a {kind.__name__} that contains itself has no digest")
        walk.steps += len(value)
        inner = (*within, id(value))
        if kind in (set, frozenset):
            digest = _hash(kind.__name__, sorted(_apart(value, inner, walk)))
        else:
            digest = _hash(kind.__name__, [_of(each, inner, walk) for each in (_pairs(value) if kind is dict else value)])
    elif kind is _Keywords:
        return _of(dict(sorted(value.values.items())), within, walk)
    elif kind is types.FunctionType or _inside(value) is not None:
        if id(value) in within:
            return _again(value, within, walk)
        walk.steps += _WORTH
        digest = walk.follow(_callable, value, within)
    else:
        digest = _of_object(value, within, walk)
    if walk.again != again and walk.is_following:
        walk.meet(value)
    elif walk.steps - steps >= _WORTH:
        (walk.known if walk.again == again else walk.around)[id(value)] = value, digest
    return digest


def _apart(values: Iterable[object], within: tuple[int, ...], walk: _Walk) -> Iterable[bytes]:
    """Yield the digests of values that have no order: none has a number for another one."""
    before = len(walk.met)
    for each in values:
        yield _of(each, within, walk)
        while len(walk.met) > before:
            walk.met.popitem()


def _of_object(value: Any, within: tuple[int, ...], walk: _Walk) -> bytes:
    numpy, kind = sys.modules.get("numpy"), type(value)
    if numpy is not None and kind is numpy.ndarray and (array := _array(value)) is not None:
        walk.steps += value.nbytes >> 4
        return array
    torch = sys.modules.get("torch")
    if torch is not None and kind is torch.Tensor and reducers.is_plain(value):
        walk.steps += value.nbytes >> 4
        return _hash("tensor", _tensor(value))
    content = _pickle(value, within, walk)
    walk.steps += len(content) >> 4
    return _hash("pickle", [content])


def _pairs(value: dict[object, object]) -> Iterable[object]:
    for pair in value.items():
        yield from pair


def _array(value: Any) -> bytes | None:
    """Return a digest of an array of NumPy; None if its elements are objects, or its type says more than NumPy shows of it."""
    dtype = value.dtype
    if dtype.hasobject or dtype.metadata or not type(dtype).__module__.startswith("numpy"):
        return None
    if dtype.names is None:
        described = dtype.str.encode()
    else:
        text = type_text(dtype)
        described = _pickle(dtype, (), _Walk()) if text is None else text.encode("utf-8", "surrogatepass")
    return _hash("ndarray", [described, repr(value.shape).encode(), *_elements(value)])


def _elements(value: Any) -> Iterable[bytes]:
    """Yield the bytes of an array's elements, those of a structured one field by field: what lies between its fields may be
    anything."""
    names = value.dtype.names
    if names is None:
        yield value.tobytes()
    for name in names or ():
        yield from _elements(value[name])


def _tensor(value: Any) -> list[bytes]:
    return [reducers.type_name(value).encode(), repr(tuple(value.shape)).encode(), bytes(reducers.content(value))]


def _bytes_of(storage: Any) -> bytes:
    torch = sys.modules["torch"]
    return bytes(torch.empty(0, dtype=torch.uint8).set_(storage).numpy())


def _pickle(value: object, within: tuple[int, ...], walk: _Walk) -> bytes:
    try:
        # Within a function, a second try would look at all that is in it again, and so would each object there.
        content = _dumped(_PicklerOfSets if walk.is_following else _Pickler, value, within, walk)
        if not walk.is_following and any(each in content for each in _SETS):
            content = _dumped(_PicklerOfSets, value, within, walk)
    except MemoryError:
        raise
    except Exception as error:
        raise TypeError(f"{type(value).__name__} has no digest: {error}") from error
    return content


def _dumped(pickler: type[_Pickler], value: object, within: tuple[int, ...], walk: _Walk) -> bytes:
    stream = io.BytesIO()
    pickler(stream, within, walk).dump(value)
    return stream.getvalue()


class _Pickler(pickle.Pickler):
    """Makes the pickle that ``pickle.dumps`` makes. But it has digests of arrays, whose pickles say how they lie and whether
    they may be written to, of tensors and of their storages, whose pickles have addresses, and of functions in callables, whose
    pickles are their names. What the main module defines is known by its file: that module has another name in a
    spawned process. What it does not have under its name is known by its content: there may be several of one name, and
    where ``cloudpickle`` has brought a class, the main module is another one."""

    def __init__(self, stream: io.BytesIO, within: tuple[int, ...], walk: _Walk) -> None:
        super().__init__(stream, 5)
        self._within, self._walk = within, walk

    def reducer_override(self, value: Any) -> Any:
        numpy = sys.modules.get("numpy")
        if numpy is not None and type(value) is numpy.ndarray and (array := _array(value)) is not None:
            return bytes, (array,)
        torch = sys.modules.get("torch")
        if torch is not None and type(value) in (torch.Tensor, torch.nn.Parameter) and reducers.is_plain(value.detach()):
            kind = type(value).__name__
            return bytes, (kind, _hash("tensor", _tensor(value.detach())), value.requires_grad, vars(value))
        if torch is not None and type(value) in (torch.storage.TypedStorage, torch.UntypedStorage):
            untyped = value if type(value) is torch.UntypedStorage else value._untyped_storage
            if untyped.device.type == "cpu":  # of a subclass, a conjugate, a quantized tensor, and other tensors
                return bytes, (str(getattr(value, "dtype", None)), _hash("storage", [_bytes_of(untyped)]))
        if self._walk.is_callable and (type(value) is types.FunctionType or _inside(value) is not None):
            return bytes, (_of(value, self._within, self._walk),)
        if _is_a(value, (type, types.FunctionType)) and value.__module__ in _MAIN and _has_name(value):
            if _is_found(value):
                return bytes, (where(value).encode(),)
            return bytes, ((_class if _is_a(value, type) else _of)(value, self._within, self._walk),)
        return NotImplemented


class _PicklerOfSets(_Pickler):
    """Has digests of sets, too: their order is another one in each process. It takes longer, as it looks at every value."""

    def __init__(self, stream: io.BytesIO, within: tuple[int, ...], walk: _Walk) -> None:
        super().__init__(stream, within, walk)
        self._told: dict[int, tuple[object, bool]] = {}  # with the value, since another one could get its number

    def persistent_id(self, value: Any) -> Any:
        if type(value) in (set, frozenset) and all(map(self._is_told_by_itself, value)):
            return _of(value, self._within, self._walk)
        return None

    def _is_told_by_itself(self, value: Any) -> bool:
        """Return True for what cannot refer to what it is within."""
        kind = type(value)
        if kind not in (tuple, frozenset):
            return kind in _SIMPLE or _is_a(value, enum.Enum)
        found = self._told.get(id(value))
        if found is None:
            found = self._told[id(value)] = value, all(map(self._is_told_by_itself, value))
        return found[1]


def _callable(function: Any, within: tuple[int, ...], walk: _Walk) -> bytes:
    within = (*within, id(function))
    inside = _inside(function)
    if inside is not None:
        return _hash("holder", [_of(each, within, walk) for each in (inside[0], *inside[1])])
    parts = [where(function).encode(), _code(function.__code__)]
    original = _original(function)
    more = [] if original is None or _has_closed_over(function, original) else [original]
    for value in (function.__defaults__, function.__kwdefaults__, *closed_over(function), *more):
        parts.append(_of(value, within, walk))
    return _hash("function", parts)


def _class(kind: type, within: tuple[int, ...], walk: _Walk) -> bytes:
    """Return a digest of a class by its content."""
    if id(kind) in within:
        return _again(kind, within, walk)
    found = walk.classes.get(id(kind))
    if found is not None:
        return found[1]
    if (met := walk.met_again(kind)) is not None:
        return met
    again = walk.again
    digest = walk.follow(_content, kind, within)
    if walk.again == again:
        walk.classes[id(kind)] = kind, digest
    elif walk.is_following:
        walk.meet(kind)
    return digest


def _content(kind: type, within: tuple[int, ...], walk: _Walk) -> bytes:
    within = (*within, id(kind))
    parts = [where(kind).encode(), *(_of(each, within, walk) for each in (type(kind), *kind.__bases__))]
    for name, value in sorted(vars(kind).items()):
        if name not in _OF_ALL_CLASSES:
            parts += [name.encode(), *(_of(each, within, walk) for each in _attribute(value))]
    return _hash("class", parts)


def _attribute(value: Any) -> list[object]:
    """Return what tells an attribute in the body of a class from others."""
    kind = type(value)
    if kind is property:
        return [kind, value.fget, value.fset, value.fdel]
    if kind is classmethod:
        return [kind, value.__func__]
    return [kind, value.func] if kind is functools.cached_property else [value]


def _again(value: object, within: tuple[int, ...], walk: _Walk) -> bytes:
    """Return a digest of what refers to itself: how far from the outermost value it was met first. Of two functions that call
    each other, the one that is meant is told from the other."""
    walk.again += 1
    return _hash("itself", [_LENGTH.pack(within.index(id(value)))])


def _code(code: types.CodeType) -> bytes:
    """Return a digest of bytecode without file names and line numbers, which may differ between processes."""
    names = code.co_names, code.co_varnames, code.co_freevars, code.co_flags
    counts = code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount
    parts = [code.co_code, code.co_exceptiontable, repr((names, counts)).encode()]  # the table has the extents of "try"
    for each in code.co_consts:
        parts.append(_code(each) if inspect.iscode(each) else _of(each, (), _Walk()))
    return _hash("code", parts)


def _hash(kind: str, parts: Iterable[bytes]) -> bytes:
    total = hashlib.blake2b(kind.encode(), digest_size=16)
    for part in parts:
        total.update(_LENGTH.pack(len(part)))
        total.update(part)
    return total.digest()


memoized: weakref.WeakSet[Callable[..., Any]] = weakref.WeakSet()  # what memoize has returned: known by what it memoizes

_LRU_CACHE = type(functools.lru_cache(len))
_BUILT_IN = (
    types.BuiltinFunctionType,
    types.MethodWrapperType,
    types.WrapperDescriptorType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
)
# What is not part of a class's behaviour, or is also told by other attributes, and may differ between processes.
_OF_ALL_CLASSES = {
    "__annotate__", "__annotate_func__", "__annotations__", "__annotations_cache__", "__dataclass_fields__",
    "__dataclass_params__", "__dict__", "__doc__", "__firstlineno__", "__module__", "__orig_bases__", "__parameters__",
    "__qualname__", "__static_attributes__", "__type_params__", "__weakref__", "_abc_impl",
}  # fmt: skip
_SETS = (pickle.EMPTY_SET + pickle.MEMOIZE, pickle.FROZENSET + pickle.MEMOIZE)  # how a set begins in a pickle, or ends
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
