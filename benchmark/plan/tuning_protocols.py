"""The protocols by which settings are chosen, and the candidates that a detector offers."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

from oodbench.benchmark.plugins.detector import Detector
from oodbench.benchmark.plugins.specs import canonical

if TYPE_CHECKING:
    pass


PROTOCOLS = ("defaults", "val_ood", "leave_one_out")
"""How settings may be chosen; see tuning.py."""

DEFAULTS, VAL_OOD, LEAVE_ONE_OUT = PROTOCOLS


def candidates(detector: Detector) -> list[Detector]:
    """The detector as it is, then every combination of its grid that it accepts; what the user has set stays."""
    free = {name: values for name, values in detector.grid.items() if name not in detector.changed_settings()}
    tried = {str(canonical(detector)): detector}
    for values in product(*free.values()):
        settings = {**detector.changed_settings(), **dict(zip(free, values, strict=True))}
        other = type(detector)(**settings)
        tried.setdefault(str(canonical(other)), other)
    return list(tried.values())
