from collections.abc import Callable
from typing import Literal, NoReturn, SupportsIndex, final

from ..filler.miss import Filler
from .attachment import Attachment
from .folio_map import FolioMap
from .lease import Lease
from .window import Window

@final
class FoundMap(FolioMap):
    def __init__(
        self,
        attachment: Attachment,
        filler: Filler,
        size: int,
        order: int,
        height: int,
        span: int,
        digest: bytes,
        gone: Callable[[str], Exception],
    ) -> None: ...
    @property
    def key(self) -> str: ...
    @property
    def version(self) -> str: ...
    def __reduce__(self) -> NoReturn: ...
    def lease_all(self) -> Lease | None: ...
    def window(
        self, offset: SupportsIndex = 0, length: SupportsIndex | None = None, *, writable: Literal["copy"] | None = None
    ) -> Window: ...
    def lent_window(self) -> Window | None: ...
