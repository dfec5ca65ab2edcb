"""Metrics computed from ID and OOD scores: the exact ones, the extended ones, and those of other conventions."""
