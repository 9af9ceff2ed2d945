"""Zarr through a pool: ``store`` caches a store's values, ``pipeline`` decoded chunks; ``identity`` names a store."""

from .pipeline import CachedCodecPipeline
from .store import FolioStore

__all__ = ["CachedCodecPipeline", "FolioStore"]
