"""Metrics of two sets of scores: the exact ones, the extended ones, and those of other conventions."""
