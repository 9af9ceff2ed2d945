from typing import NoReturn, Protocol, final, type_check_only

from typing_extensions import disjoint_base

from .engine import Engine
from .failure import Failure
from .readahead import Readahead
from .source import AsyncSource, Read, ReadInto, Source
from .steps import Steps

@type_check_only
class _Pool(Protocol):
    @property
    def fill_timeout(self) -> float: ...
    @property
    def closed(self) -> bool: ...
    @property
    def engine(self) -> Engine: ...

@final
class Request:
    def __call__(self) -> None: ...

@final
class Group:
    def __init__(self, *args: object, **kwargs: object) -> NoReturn: ...
    def wait(self) -> None: ...

@disjoint_base
class Filler:
    request_size: int
    @property
    def readahead(self) -> Readahead: ...
    @property
    def mark(self) -> int: ...
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
        readahead: Readahead,
    ) -> None: ...
    def failed(self, reason: Failure, offset: int) -> BaseException: ...
    def reason(self, error: BaseException) -> bytes | None: ...
    def serve(self, request: Request, lease: object) -> None: ...
    def read_runs(
        self, mapping: Steps, runs: list[tuple[int, int]], of: int = 0, result: object = None
    ) -> list[Group | None]: ...
