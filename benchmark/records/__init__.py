"""What a run leaves on disk: one record per cell, run.json and records.csv."""
