"""Published numbers with their sources."""
