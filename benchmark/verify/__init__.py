"""Contract checks of plug-ins, verification of finished runs, and repetition of runs."""
