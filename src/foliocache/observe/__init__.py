"""What a pool says of itself, as types: statistics, findings, cached objects."""
