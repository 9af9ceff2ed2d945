"""The options that commands share, checked before anything is done; and the pool that they name.

The library's own functions are the judges of names and sizes, so that the command line and the library accept the same.
"""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Parameter, validators

from foliocache.cli.exits import CommandError


def check_name(type_: Any, name: str) -> None:
    """ValueError for a name that no pool can have."""
    from foliocache.pool.files import path_of

    path_of(name)


def check_size(type_: Any, size: str | None) -> None:
    """ValueError for a size that nobody can read."""
    from foliocache.sizes import parse_size

    if size is not None:
        parse_size(size)


def open_pool(name: str, size: str | int | None) -> Any:
    """The pool of that name, as it is or new; a size that is no pool's is said to be ``--size``."""
    import foliocache

    try:
        return foliocache.open(name, size=size)
    except foliocache.FoliocacheError:
        raise
    except ValueError as error:
        raise CommandError(f"--size {size}: {error}") from error


Json = Annotated[bool, Parameter(show_default=False)]
Name = Annotated[str, Parameter(validator=check_name)]
Size = Annotated[str | None, Parameter(name="--size", validator=check_size)]
Positive = Annotated[int, Parameter(validator=validators.Number(gte=1))]
Share = Annotated[float, Parameter(validator=validators.Number(gt=0, lte=1))]
Milliseconds = Annotated[float, Parameter(validator=validators.Number(gte=0))]
