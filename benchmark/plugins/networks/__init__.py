"""Classifiers that stand for a network: where only arrays of its outputs, or its head, are there."""
