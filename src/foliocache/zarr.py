"""Zarr through a pool: `FolioStore`, a store around a store, and `CachedCodecPipeline`, which keeps decoded chunks.

It needs the extra ``zarr``.
"""

from .adapters.zarr import CachedCodecPipeline, FolioStore

__all__ = ["CachedCodecPipeline", "FolioStore"]
