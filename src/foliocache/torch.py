"""PyTorch through a pool: `SharedDataset`, whose samples are made once per machine, and `cached`, the same for a transform.

It needs the extra ``torch``.
"""

from .adapters.torch import CachedTransform, SharedDataset, cached

__all__ = ["CachedTransform", "SharedDataset", "cached"]
