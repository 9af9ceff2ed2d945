"""The options that commands share, and the pool that they name. They are checked before anything is done.

Names and sizes are checked by the library's own functions, so the command line and the library accept the same.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter, validators

import foliocache
from foliocache.cli.exits import UsageError
from foliocache.pool.files import path_of
from foliocache.pool.geometry import DEFAULT_PAGE_SIZE, pool_size
from foliocache.sizes import parse_share, parse_size

if TYPE_CHECKING:
    from foliocache import Pool


def open_pool(name: str, size: str | int | None) -> Pool:
    """Open a pool as :func:`foliocache.open` does.

    Raises
    ------
    UsageError
        No pool can have this size; the message names the option.
    FoliocacheError
        As :func:`foliocache.open`.
    """
    try:
        pool: Pool = foliocache.open(name, size=size)
    except foliocache.FoliocacheError:
        raise
    except ValueError as error:
        raise UsageError(f"--size {size}: {error}") from error
    return pool


def check_pool(size: str) -> None:
    """Raise UsageError for a size that no pool can have, before a command begins with what takes long."""
    try:
        pool_size(size, DEFAULT_PAGE_SIZE)
    except ValueError as error:
        raise UsageError(f"--size {size}: {error}") from error


def check_name(type_: object, name: str | None) -> None:
    """Raise ValueError for a name that no pool can have. None is all pools, where a command takes that."""
    if name is not None:
        path_of(name)


def check_number(type_: object, value: float) -> None:
    """Raise ValueError for "nan", which passes the bounds of older versions of cyclopts."""
    if math.isnan(value):
        raise ValueError("Must be a number.")


def check_size(type_: object, size: str | None) -> None:
    """Raise ValueError for a size that cannot be parsed."""
    if size is not None and size.rstrip().endswith("%"):
        parse_share(size)
    elif size is not None:
        parse_size(size)


def check_offset(type_: object, size: str | None) -> None:
    """Raise ValueError for what is neither 0 nor bytes."""
    if size is not None and size.strip() != "0":
        parse_size(size)


def check_output(type_: object, path: Path | None) -> None:
    """Raise ValueError for a file that cannot be written, before a command begins with what takes long."""
    if path is not None and path.is_dir():
        raise ValueError(f"{path} is a folder; give the name of a file")
    if path is not None and not path.exists() and not path.parent.is_dir():
        raise ValueError(f"there is no folder {path.parent}")
    if path is not None and not os.access(path if path.exists() else path.parent, os.W_OK):
        raise ValueError(f"{path} cannot be written")


Json = Annotated[bool, Parameter(show_default=False)]
Name = Annotated[str, Parameter(validator=check_name)]
AnyName = Annotated[str | None, Parameter(validator=check_name)]
Size = Annotated[str | None, Parameter(name="--size", validator=check_size)]
Offset = Annotated[str, Parameter(validator=check_offset)]
Length = Annotated[str | None, Parameter(validator=check_offset)]
Output = Annotated[Path | None, Parameter(validator=check_output)]
Positive = Annotated[int, Parameter(validator=validators.Number(gte=1))]
Share = Annotated[float, Parameter(validator=[check_number, validators.Number(gt=0, lte=1)])]
Milliseconds = Annotated[float, Parameter(validator=[check_number, validators.Number(gte=0, lte=3_600_000)])]
