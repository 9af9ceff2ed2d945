from typing import Any

from typing_extensions import Buffer

def short_pickle(record: bytes, at: int, end: int, content: Buffer) -> Any: ...
