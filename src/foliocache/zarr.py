"""Zarr through a pool: `FolioStore`, a store around a store, `CachedCodecPipeline`, which keeps decoded chunks,
and `FolioArray`, which reads them faster.

It needs the extra ``zarr``.
"""

from .adapters.zarr import CachedCodecPipeline, FolioArray, FolioStore

__all__ = ["CachedCodecPipeline", "FolioArray", "FolioStore"]
