"""Keys of samples: no two datasets or transforms of other keys share one."""

from __future__ import annotations

from foliocache.sizes import quoted

DATASET, TRANSFORM = "torch", "torch-transform"


def prefix(what: str, key: str) -> str:
    """Return what the keys of all samples under a user's key begin with. Raises ValueError if that is no string, or empty.

    A key that contains a colon is given with its length: otherwise the key "a:b" with a sample "c" could be "a" with "b:c".
    """
    if not isinstance(key, str) or not key:
        raise ValueError(f"the key of a dataset or transform must be a string that is not empty, not {quoted(key)}")
    return f"{what}::{len(key)}:{key}:" if ":" in key else f"{what}:{key}:"


def of_text(sample: str) -> str:
    """Return the end of the key of a sample that is known by a string: unlike numbers and digests, it begins with a quote."""
    return "'" + str.__str__(sample)
