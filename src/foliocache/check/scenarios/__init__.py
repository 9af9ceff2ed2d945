"""The protocol's scenarios, on the shipped source."""
