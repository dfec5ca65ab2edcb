"""Commands for results that are passed on: run bundles, and leaderboards of them."""
