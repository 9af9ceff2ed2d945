"""What a pool reports about itself, as types: statistics, findings, cached objects."""
