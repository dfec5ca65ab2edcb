"""A run's tables in every format: what they contain, and how each format writes it."""
