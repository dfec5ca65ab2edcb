"""The protocols for choosing detector settings, and the candidates they choose from."""

from __future__ import annotations

from itertools import product

from oodbench.benchmark.errors import first_line
from oodbench.benchmark.plugins.detector import Detector
from oodbench.benchmark.plugins.guarded import CallError
from oodbench.benchmark.plugins.specs import Spec, canonical

PROTOCOLS = ("defaults", "val_id", "val_ood", "leave_one_out")
"""How settings may be chosen; see stages/tune.py."""

DEFAULTS, VAL_ID, VAL_OOD, LEAVE_ONE_OUT = PROTOCOLS


def candidates(detector: Detector) -> list[Detector]:
    """The detector itself, then every combination of its grid; settings that the user has set stay as they are.

    Raises `CallError` if the detector refuses a combination of its own grid.
    """
    free = {name: values for name, values in detector.grid.items() if name not in detector.changed_settings()}
    found = {str(canonical(detector)): detector}
    for values in product(*free.values()):
        settings = {**detector.changed_settings(), **dict(zip(free, values, strict=True))}
        try:
            candidate = type(detector)(**settings)
        except Exception as error:  # a plug-in may raise anything
            raise CallError(
                f"The grid of detector '{detector.name}' has settings that the detector refuses, "
                f"{Spec(detector.name, tuple(settings.items()))}: {first_line(error).rstrip('.')}. Mend the grid, or "
                "use --protocol defaults."
            ) from error
        found.setdefault(str(canonical(candidate)), candidate)
    return list(found.values())
