"""Intervals and tests: arrays in, numbers out."""
