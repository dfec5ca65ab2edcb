"""A run's detectors against each other: which is better, and is it chance?"""
