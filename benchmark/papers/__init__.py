"""Reads published numbers, compares a run with them, and draws the figures of a paper."""
