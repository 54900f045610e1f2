"""One file a paper; found by the registry, never listed."""
