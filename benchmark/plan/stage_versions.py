"""The version of each stage, part of the keys of everything that the stage computes.

Raise one when a change of the stage changes its results.
"""

from __future__ import annotations

EXTRACTION_VERSION = "2"
"""Part of the keys of logits, features and map reductions."""

SCORING_VERSION = "1"
"""Part of the keys of tuned settings, fitted detectors and scores."""

TRAINING_VERSION = "3"
"""Part of the key of every trained checkpoint."""

TUNING_VERSION = "2"
"""Part of the key of tuned settings."""

IMPORT_VERSION = "1"
"""Part of the key of every imported checkpoint."""

HEAD_VERSION = "1"
"""Part of the keys of heads that are fitted to stored features, and of the logits that are computed from them."""

OUTPUTS_VERSION = "1"
"""Part of the keys of logits, features, heads and scores that the user gives."""

STAGE_VERSIONS = {
    "extraction": EXTRACTION_VERSION,
    "scoring": SCORING_VERSION,
    "training": TRAINING_VERSION,
    "tuning": TUNING_VERSION,
    "import": IMPORT_VERSION,
    "head": HEAD_VERSION,
    "outputs_import": OUTPUTS_VERSION,
}
"""The versions by their names in keys."""
