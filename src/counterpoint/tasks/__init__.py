"""Downstream systems over any encoder; found by the registry, never listed."""
