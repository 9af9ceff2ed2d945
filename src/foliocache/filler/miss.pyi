from typing import NoReturn, Protocol, final, type_check_only

from typing_extensions import disjoint_base

from .calls import Calls, _Pool
from .engine import Engine
from .readahead import Readahead
from .source import AsyncSource, Read, ReadInto, Source
from .steps import Steps

@type_check_only
class _EnginePool(_Pool, Protocol):
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
class Filler(Calls):
    request_size: int
    @property
    def readahead(self) -> Readahead: ...
    @property
    def mark(self) -> int: ...
    def __init__(
        self,
        key: str,
        pool: _EnginePool,
        read: Read | None,
        readinto: ReadInto | None,
        source: Source | AsyncSource | None,
        concurrent: bool,
        readahead: Readahead,
    ) -> None: ...
    def serve(self, request: Request, lease: object) -> None: ...
    def read_runs(
        self, mapping: Steps, runs: list[tuple[int, int]], of: int = 0, result: object = None
    ) -> list[Group | None]: ...
