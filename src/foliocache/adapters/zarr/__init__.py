"""Zarr through a pool: ``store`` caches a store's values, ``pipeline`` decoded chunks, which ``array`` reads faster
and ``gather`` puts together; ``identity`` names a store."""

from .array import FolioArray
from .pipeline import CachedCodecPipeline
from .store import FolioStore

__all__ = ["CachedCodecPipeline", "FolioArray", "FolioStore"]
