"""Progress of a run on standard error: one live display on a terminal (`live`), a few lines elsewhere (`lines`)."""

from oodbench.benchmark.cli.progress.watch import watch as watch
