"""Where missing bytes come from: the protocol of sources, and clients that read straight into pages.

A mapping's source is asked for ranges of one object at one version. It proves that what it gives is of that version, by the
answer that carries the bytes or by a question after it, and raises if it is not.
"""

from ..filler.source import AsyncSource, Source

__all__ = ["AsyncSource", "Source"]
