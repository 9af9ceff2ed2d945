"""What a miss reads: how far ahead, and what is said when the source fails."""
