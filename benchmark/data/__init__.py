"""Image sets by name: which images they are, how they are split, and which of them two sets share."""
