"""Records -> tables and pictures. Nothing here imports torch or changes a number."""
