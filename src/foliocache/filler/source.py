"""What a source is: a function of the user's that gives an object's bytes."""

from collections.abc import Callable
from typing import TYPE_CHECKING, SupportsIndex

if TYPE_CHECKING:
    from typing_extensions import Buffer

# read(offset, length) returns exactly those bytes; readinto(offset, buffer) fills the buffer and returns how many bytes that is.
Read = Callable[[int, int], "Buffer"]
ReadInto = Callable[[int, memoryview], SupportsIndex]
