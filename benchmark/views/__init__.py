"""Renders records as tables, plots and pages. Nothing here imports torch or changes a number."""
