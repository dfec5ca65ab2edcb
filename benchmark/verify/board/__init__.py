"""Leaderboards: a static site made from run bundles, of which every number is computed again."""
