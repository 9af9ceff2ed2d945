"""Tiers: what a pool asks before the origin. Data sets larger than memory stay on a local disk, also over a reboot.

They are given to a pool as text: ``foliocache.open("train", tiers=["disk:/nvme/foliocache?size=1TiB"])``.
"""

from .behind import flush
from .tier import Claiming, Looking, Tier, TierStat

__all__ = ["Claiming", "Looking", "Tier", "TierStat", "flush"]
