"""The codec pipeline that Zarr finds by its entry point.

Before it makes the first codec pipeline, Zarr loads all that are installed, and what one of them raises fails every array. So
where ours cannot be imported, as with a Zarr that is older than the extra ``zarr`` asks for, Zarr gets its own once more;
unless ours is the one that is configured.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from zarr.core.config import config

if TYPE_CHECKING:
    from .zarr.pipeline import CachedCodecPipeline
else:
    try:
        from .zarr.pipeline import CachedCodecPipeline
    except ImportError:
        if config.get("codec_pipeline.path") == "foliocache.zarr.CachedCodecPipeline":
            raise
        from zarr.core.codec_pipeline import BatchedCodecPipeline as CachedCodecPipeline

__all__ = ["CachedCodecPipeline"]
