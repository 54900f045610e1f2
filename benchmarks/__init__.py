"""Benchmarks of counterpoint against its peers: the same work, on the same machine, in turn."""
