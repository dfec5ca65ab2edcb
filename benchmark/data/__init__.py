"""Loads image sets by name, splits them, and finds images that two sets share."""
