"""The codec pipeline that Zarr finds by its entry point.

Before it makes the first codec pipeline, Zarr loads all that are installed. What one of them raises then fails every array, and
each waits for its import. So Zarr gets a class here that has only the name of ours, and imports it when it is asked for more:
when ours is the one that is configured.
"""

from __future__ import annotations

from typing import Any


class _Named(type):
    def __getattr__(cls, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        from .zarr import pipeline  # which takes the place of this class in Zarr's registry

        return getattr(pipeline.CachedCodecPipeline, name)


class CachedCodecPipeline(metaclass=_Named):
    """In the place of `foliocache.zarr.CachedCodecPipeline`, until that is imported."""


CachedCodecPipeline.__module__ = "foliocache.zarr"
