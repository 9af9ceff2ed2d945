from typing import Protocol, type_check_only

from typing_extensions import disjoint_base

from .failure import Failure
from .source import AsyncSource, Read, ReadInto, Source

@type_check_only
class _Pool(Protocol):
    @property
    def fill_timeout(self) -> float: ...
    @property
    def closed(self) -> bool: ...

@disjoint_base
class Calls:
    @property
    def is_threaded(self) -> bool: ...
    @property
    def source(self) -> tuple[Read | None, ReadInto | None, Source | AsyncSource | None, bool]: ...
    def __init__(
        self,
        key: str,
        pool: _Pool,
        read: Read | None,
        readinto: ReadInto | None,
        source: Source | AsyncSource | None,
        concurrent: bool,
    ) -> None: ...
    def failed(self, reason: Failure, offset: int) -> BaseException: ...
    def reason(self, error: BaseException) -> bytes | None: ...
