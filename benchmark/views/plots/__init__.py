"""A run's plots: one style, one function per kind of picture."""
