"""Other libraries' interfaces to a pool. Nothing here is imported before it is asked for."""
