"""The version of each stage: part of the keys of everything that the stage makes."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass


EXTRACTION_VERSION = "1"
"""Part of every output's key; raise it when a change of this file changes logits."""

SCORING_VERSION = "1"

TRAINING_VERSION = "2"
"""Part of every checkpoint's key; raise it when a change of this loop changes weights."""

TUNING_VERSION = "1"

IMPORT_VERSION = "1"
"""Part of an imported checkpoint's key; raise it when a change of this file changes what is read."""
