from typing import Any

from .spec import AbstractFileSystem as AbstractFileSystem

def __getattr__(name: str) -> Any: ...
