"""The decorator: a function whose results are kept in the pool, by its arguments."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Collection
from types import FunctionType, MethodType
from typing import Any, Concatenate, Generic, ParamSpec, Protocol, Self, TypeVar, cast, overload

from ..sizes import quoted
from . import keys
from .store import MakeAsync, Objects, check_options
from .values import Loads

P = ParamSpec("P")
R = TypeVar("R")
Q = ParamSpec("Q")
S = TypeVar("S")
R_co = TypeVar("R_co", covariant=True)


class Memoized(Protocol[P, R_co]):
    """A memoized function, as type checkers see it; it is a function, and a method in the body of a class.

    Type checkers take a class method that is called by its class (``C.method()``) for a function of the class.
    """

    def __call__(self, /, *args: P.args, **kwargs: P.kwargs) -> R_co:
        """Return the result of a call, from the pool if it is there."""

    def key(self, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the key of a call."""

    def delete(self, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Forget the result of a call."""

    @overload
    def __get__(self, instance: None, owner: type, /) -> Self: ...
    @overload
    def __get__(self: Memoized[Concatenate[S, Q], R], instance: S, owner: type | None = None, /) -> Callable[Q, R]: ...
    @overload  # of a static or class method, which pyright tells by its first parameter
    def __get__(self, instance: object, owner: type | None = None, /) -> Callable[..., R_co]: ...


class Memo(Generic[P, R]):
    """The memoization of one function: it turns calls into keys, and results into objects."""

    def __init__(
        self,
        objects: Callable[[], Objects],
        function: Callable[P, R],
        key: Callable[P, str] | None,
        version: str | None,
        expiry: float | None,
        ignore: str | Collection[str],
        loads: Loads,
    ) -> None:
        if not callable(function):
            raise TypeError(f"memoize decorates functions, not {quoted(function)}")
        if key is not None and not callable(key):
            raise TypeError(f"key must be a function of a call's arguments that returns a string, not {quoted(key)}")
        check_options("" if version is None else version, expiry, loads)
        self.objects: Callable[[], Objects] = objects
        self.function: Callable[P, R] = function
        self.key: Callable[P, str] | None = key
        self.expiry: float | None = expiry
        self.loads: Loads = loads
        self.version: str = keys.of_code(function, with_wrapped=key is not None) if version is None else version
        self.functions: list[FunctionType]
        self.held: list[object]
        self.functions, self.held = keys.taken_apart(function)
        self.signature: inspect.Signature | None = _signature(function) if key is None or ignore else None
        self.is_decorated: bool = keys.is_decorated(function)
        own = _own_signature(function) if self.signature and self.is_decorated else self.signature
        self.own: inspect.Signature | None = own
        parameters = {**own.parameters, **self.signature.parameters} if own and self.signature else {}
        names: Collection[str] = (ignore,) if isinstance(ignore, str) else ignore
        if not isinstance(names, Collection) or not all(isinstance(name, str) for name in names):
            raise ValueError(f"ignore must be names of parameters, not {quoted(ignore)}")
        self.ignore: frozenset[str] = frozenset(names)
        self.hidden: list[tuple[str, object]] = self._hidden_defaults()
        self.where: str = keys.where(function)
        self.parameters: frozenset[str] = frozenset(parameters)
        unknown = self.ignore - self.parameters
        if unknown:
            raise ValueError(f"ignore names {quoted(sorted(unknown))}, which {self.where} has no parameters of")

    def key_of(self, /, *args: P.args, **kwargs: P.kwargs) -> str:
        """Return the key of a call. Raises TypeError if an argument has no digest."""
        if self.key is not None:
            chosen = self.key(*args, **kwargs)
            if not isinstance(chosen, str):
                raise TypeError(f"the key of a call of {self.where} must be a string, not {quoted(chosen)}")
            return f"{self.where}:{chosen}"
        return f"{self.where}:{keys.digest(self._parts(args, kwargs))}"

    def _parts(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[object]:
        bound = self._bound(args, kwargs)
        parts: list[object] = []
        for name, value in bound.arguments.items():
            is_keywords = bound.signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD
            if name not in self.ignore:
                parts += name, self._digest(name, dict(sorted(value.items())) if is_keywords else value)
        if self.is_decorated:  # what the decorator does may depend on how the call is written
            parts += len(args), sorted(kwargs.keys() - self.ignore)
        for name, value in self.hidden:
            parts += name, self._digest(name, value)
        closed = [each for function in self.functions for each in keys.closed_over(function)]
        if closed:
            parts.append(self._digest("what it has closed over", closed))
        return [*parts, "", self._digest("what is bound to it", self.held, keys.of_held)] if self.held else parts

    def _bound(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> inspect.BoundArguments:
        """Return the arguments of a call by their names, with defaults. A decorator may take others than what it decorates."""
        assert self.signature is not None and self.own is not None
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError:
            if not self.is_decorated:
                raise
            bound = self.own.bind(*args, **kwargs)
        bound.apply_defaults()
        return bound

    def _hidden_defaults(self) -> list[tuple[str, object]]:
        """Return the defaults that the signature does not tell, by their parameters' names: those of a decorator beside what it
        decorates, or of ``forward`` of a module. What a function's own signature does not tell, a ``partial`` has given."""
        if self.functions and not self.is_decorated and keys.innermost(self.function) is self.functions[0]:
            return []
        told = self.signature.parameters if self.signature else {}
        return [
            (name, value)
            for function in self.functions
            for name, value in keys.defaults(function).items()
            if name not in self.ignore and (name not in told or told[name].default is not value)
        ]

    def _digest(self, name: str, value: Any, digest: Callable[[Any], str] = keys.digest) -> str:
        try:
            return digest(value)
        except (TypeError, RecursionError) as error:
            advice = "Name it in ignore= if the result does not depend on it, or give key="
            if name not in self.parameters:
                advice = "Give key=, which tells apart what differs in it, too"
            raise TypeError(f"{name} of {self.where} cannot be part of a key: {error}. {advice}") from error

    def call(self, /, *args: P.args, **kwargs: P.kwargs) -> R:
        """Return the result of a call, from the pool if it is there."""
        make = functools.partial(self.function, *args, **kwargs)
        return cast(
            "R", self.objects().get_or_create(self.key_of(*args, **kwargs), make, self.version, self.expiry, self.loads)
        )

    def _wrapped(self) -> Callable[P, R]:
        @functools.wraps(self.function)
        def call(*args: P.args, **kwargs: P.kwargs) -> R:
            return self.call(*args, **kwargs)

        return call

    def _wrapped_async(self) -> Callable[P, R]:
        @functools.wraps(self.function)
        async def call(*args: P.args, **kwargs: P.kwargs) -> Any:
            make = functools.partial(self.function, *args, **kwargs)
            key = self.key_of(*args, **kwargs)
            return await self.objects().get_or_create_async(key, cast("MakeAsync", make), self.version, self.expiry, self.loads)

        return cast("Callable[P, R]", call)

    def delete(self, /, *args: P.args, **kwargs: P.kwargs) -> None:
        """Forget the result of a call."""
        self.objects().delete(self.key_of(*args, **kwargs))

    def wrapped(self) -> Memoized[P, R]:
        """Return the function that users call. It pickles as the original would: by its name."""

        call = self._wrapped_async() if _is_async(self.function) else self._wrapped()
        call.key = self.key_of  # type: ignore[attr-defined]
        call.delete = self.delete  # type: ignore[attr-defined]
        keys.memoized.add(call)
        return cast("Memoized[P, R]", call)


def _is_async(function: Callable[..., Any]) -> bool:
    """Return True for a coroutine function, and for what calls one: an object with such a ``__call__``, a ``partial`` of it."""
    while isinstance(function, functools.partial):
        function = function.func
    call = None if isinstance(function, (FunctionType, MethodType)) else type(function).__call__
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(call)


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function)
    except (ValueError, TypeError) as error:
        raise TypeError(f"the parameters of {keys.where(function)} are not known: {error}; give key=") from error


def _own_signature(function: Callable[..., Any]) -> inspect.Signature:
    """Return the parameters that a decorated function takes itself."""
    try:
        return inspect.signature(function, follow_wrapped=False)
    except (ValueError, TypeError):  # of an object that is not Python's
        return inspect.signature(lambda *args, **kwargs: None)
