from typing import final

from .lease import FolioMap

@final
class Results:
    def __init__(self, lengths: list[int]) -> None: ...
    def read(self, number: int, mapping: FolioMap, offset: int, length: int) -> bytes: ...
