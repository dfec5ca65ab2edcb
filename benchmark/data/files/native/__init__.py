"""Pictures at their own size: how the files of a split are read one picture at a time."""
