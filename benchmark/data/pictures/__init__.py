"""Pictures at their own size: where they are stored, their index, and decoding them while a network works."""
