"""Published numbers, how ours match them, and the figures of a paper."""
