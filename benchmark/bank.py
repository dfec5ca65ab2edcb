"""Where `unit` was; detectors import it from oodbench.benchmark."""

from oodbench.benchmark.plugins.training_bank import unit as unit
