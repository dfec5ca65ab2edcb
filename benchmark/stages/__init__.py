"""How one job is done: train, extract, tune, fit, score, evaluate."""
