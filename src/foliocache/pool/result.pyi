from typing import final

from typing_extensions import disjoint_base

@disjoint_base
class Sink:
    def __init__(self, *args: object, **kwargs: object) -> None: ...

@final
class Result(Sink): ...

@final
class SortedResults(Sink): ...
