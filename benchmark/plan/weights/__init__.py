"""Weights that were trained elsewhere: reading a file of them safely, and finding the run's network in it."""
