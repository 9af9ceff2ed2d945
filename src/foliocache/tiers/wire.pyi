import socket
from collections.abc import Callable, Container

def limit(sock: socket.socket, seconds: float) -> None: ...
def is_silent(sock: socket.socket) -> bool: ...
def mget(
    sock: socket.socket,
    keys: list[bytes],
    places: list[memoryview],
    blocks: list[tuple[bytes, int] | None],
    whole: int,
    magic: bytes,
    crc32c: Callable[..., int],
    deadline: float,
    standing: float = 0,
    alone: list[int] | None = None,
) -> list[bool]: ...
def mset(
    sock: socket.socket,
    keys: list[bytes],
    contents: list[memoryview],
    blocks: list[tuple[bytes, int] | None],
    magic: bytes,
    crc32c: Callable[..., int],
    patience: float,
    standing: float = 0,
    alone: Container[bytes] | None = None,
) -> None: ...
