"""The files of a run: one record per cell, run.json, records.csv and best.json; also what pruning deletes."""
