import socket
from collections.abc import Callable

def is_silent(sock: socket.socket) -> bool: ...
def mget(
    sock: socket.socket, keys: list[bytes], places: list[memoryview], magic: bytes, crc32c: Callable[..., int], deadline: float
) -> list[bool]: ...
def mset(
    sock: socket.socket,
    keys: list[bytes],
    contents: list[memoryview],
    magic: bytes,
    crc32c: Callable[..., int],
    patience: float,
) -> None: ...
