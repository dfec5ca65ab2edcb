"""Nearest training images by screening: a bfloat16 product excludes most of the bank, the rest is decided exactly."""
