"""Readers of the formats of arrays and scores: NumPy, safetensors, Parquet and CSV, mapped or in bounded memory."""
