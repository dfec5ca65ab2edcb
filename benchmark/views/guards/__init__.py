"""What guards the conclusions from a table: baselines without a network, the stability of scores, the tuning spread."""
