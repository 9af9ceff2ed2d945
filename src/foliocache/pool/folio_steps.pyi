from typing_extensions import disjoint_base

from ..filler.failure import RECORD_MAX as RECORD_MAX
from ..filler.miss import Filler
from ..filler.steps import Steps
from .attachment import Attachment

@disjoint_base
class FolioSteps(Steps):
    @property
    def attachment(self) -> Attachment: ...
    @property
    def filler(self) -> Filler: ...
    def __init__(
        self,
        attachment: Attachment,
        filler: Filler,
        size: int,
        order: int,
        height: int,
        digest: bytes,
        key_digest: bytes,
        key: bytes,
        version: bytes,
        span: int,
        is_fixed: bool,
        stride: int,
    ) -> None: ...
