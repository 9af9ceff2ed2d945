from typing_extensions import disjoint_base

@disjoint_base
class Steps:
    previous: int
    @property
    def size(self) -> int: ...
    @property
    def unit_size(self) -> int: ...
