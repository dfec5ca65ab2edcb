"""Compares a run's detectors with each other: which is better, and is the difference significant?"""
