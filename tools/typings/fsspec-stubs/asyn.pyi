from asyncio import AbstractEventLoop
from collections.abc import Callable
from typing import Any

from .spec import AbstractBufferedFile, AbstractFileSystem

iothread: list[Any]
loop: list[Any]

class AsyncFileSystem(AbstractFileSystem):
    asynchronous: bool
    batch_size: int | None

class AbstractAsyncStreamedFile(AbstractBufferedFile): ...

def get_loop() -> AbstractEventLoop: ...
def reset_lock() -> None: ...
def sync(loop: Any, func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any: ...
