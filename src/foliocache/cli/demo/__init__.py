"""``foliocache demo`` and its parts: the dataset, the origin, the workers, the report."""
