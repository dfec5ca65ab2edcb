"""Which images of an ID set are used for what."""
