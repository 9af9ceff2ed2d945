"""PyTorch through a pool: ``dataset`` keeps the samples of a dataset, ``transform`` the results of a transform, ``naming``
tells them apart, and ``leftovers`` gives memory back."""

from .dataset import SharedDataset
from .transform import CachedTransform, cached

__all__ = ["CachedTransform", "SharedDataset", "cached"]
