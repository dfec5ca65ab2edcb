"""Commands that bring a detector into service: `bench export` and `bench score`."""
