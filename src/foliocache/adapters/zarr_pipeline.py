"""The codec pipeline that Zarr finds by its entry point.

Before it makes the first codec pipeline, Zarr loads all that are installed. What one of them raises then fails every array, and
each waits for its import. So Zarr gets a class here that has only the name of ours, and imports it when it is asked for more:
when ours is the one that is configured. If ours has been imported already, Zarr gets that.
"""

from __future__ import annotations

import sys
from typing import Any


class _Named(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        from .zarr import pipeline  # which takes the place of this class in Zarr's registry

        return getattr(pipeline.CachedCodecPipeline, name)


class _Pipeline(metaclass=_Named):
    """In the place of `foliocache.zarr.CachedCodecPipeline`, until that is imported."""


_Pipeline.__module__ = "foliocache.zarr"
_Pipeline.__name__ = _Pipeline.__qualname__ = "CachedCodecPipeline"


def __getattr__(name: str) -> Any:
    if name != "CachedCodecPipeline":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(sys.modules.get("foliocache.adapters.zarr.pipeline"), name, _Pipeline)
