"""Imports matplotlib without asking for a GUI. Modules that draw import this one before matplotlib.

Plots are figure objects, and the format of a file chooses how they are rendered, so no backend is needed. But
matplotlib reads the environment variable MPLBACKEND when it is imported, and raises `ValueError` for a backend that is
not installed. Notebook servers set one for every program that is started from them.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress

VARIABLE = "MPLBACKEND"


def import_matplotlib() -> None:
    """Import matplotlib, whatever MPLBACKEND says. A backend that exists still applies to the user's own plots."""
    if "matplotlib" in sys.modules:
        return
    asked = os.environ.pop(VARIABLE, None)
    try:
        import matplotlib
    finally:
        if asked is not None:
            os.environ[VARIABLE] = asked
    if asked:
        with suppress(ValueError):
            matplotlib.rcParams["backend"] = asked


import_matplotlib()
