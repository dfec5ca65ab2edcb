"""Run bundles: a run in one file, with what its numbers can be computed from again, written and checked."""
