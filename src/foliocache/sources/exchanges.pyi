from collections.abc import Callable
from typing import Generic, TypeVar, final

from typing_extensions import Buffer

_T = TypeVar("_T")

@final
class Exchanges(Generic[_T]):
    def __new__(
        cls,
        most: int,
        patience: float,
        judge: Callable[[_T, bytes], bool] | None = None,
        connecting: float | None = None,
    ) -> Exchanges[_T]: ...
    def __len__(self) -> int: ...
    @property
    def most(self) -> int: ...
    @property
    def count(self) -> int: ...
    def begin(
        self, tag: _T, fd: int, request: bytes, buffers: tuple[Buffer, ...], content_range: bytes, known: tuple[bytes, ...]
    ) -> None: ...
    def wait(self, briefly: bool) -> list[tuple[_T, int, int]]: ...
