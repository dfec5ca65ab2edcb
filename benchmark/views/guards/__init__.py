"""What guards the conclusions from a table: baselines without a network, and the stability of scores."""
