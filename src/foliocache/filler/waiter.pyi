from typing import final

from typing_extensions import disjoint_base

WORDS: int

@disjoint_base
class Sleeper: ...

@final
class Waiter:
    def __call__(self) -> None: ...

def threads() -> tuple[int, int]: ...
