"""Training a classifier: the loop, its snapshots, and the networks that it stores."""
