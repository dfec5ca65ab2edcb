"""Detectors and metrics outside of a run: on arrays in memory, and in service."""
