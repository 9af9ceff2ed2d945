from typing import NoReturn, final

class Sink:
    def __init__(self, *args: object, **kwargs: object) -> NoReturn: ...

@final
class Result(Sink): ...

@final
class SortedResults(Sink): ...
