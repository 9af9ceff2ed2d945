"""Sources of missing bytes: the protocol of sources, and clients that read straight into pages.

A mapping's source is asked for ranges of one object at one version. It must prove that its bytes are of that version, by the
response that carries them or by a question after it, and raise an error if they are not.
"""

from ..filler.source import AsyncSource, Source

__all__ = ["AsyncSource", "Source"]
