"""Logits, features and scores that the user brings as files: reading, checking and writing them."""
