"""Zarr through a pool: ``store`` keeps what a store has, ``pipeline`` decoded chunks; ``identity`` says which store it is."""

from .pipeline import CachedCodecPipeline
from .store import FolioStore

__all__ = ["CachedCodecPipeline", "FolioStore"]
