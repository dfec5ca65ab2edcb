"""The names of all metrics, as records and columns use them, and which of them are better when lower."""

from __future__ import annotations

EXTENDED = "extended"
"""The value of `--metrics` that asks for the extended metrics."""

METRICS = (
    "tnr_at_tpr95",
    "auroc",
    "detection_accuracy",
    "aupr_in",
    "aupr_out",
    "aupr_in_counts",
    "aupr_out_counts",
    "fpr_at_tpr95",
    "openood_fpr95",
)
"""The metrics computed by `oodbench.benchmark.metrics.exact`, all in [0, 1]; columns of `records.csv`."""

METRICS_VERSION = "1"
"""Part of every cell's key; increase it when a metric's value changes."""

EXACT = "exact"
"""The value of `--metrics` for `METRICS` alone; other rules (`released_scripts.RULES`) are computed in addition."""

_RULE_METRICS = ("tnr_at_tpr95", "auroc", "detection_accuracy", "aupr_in", "aupr_out")

RULE_METRICS = (*_RULE_METRICS, "top_bin_id", "top_bin_ood", *(f"float32_{name}" for name in _RULE_METRICS))
"""Values of each rule set: its metrics, the shares in the grid's last bin, and the exact metrics of float32 values.

They are the keys of `audit` in a record.
"""

FULL_SPECTRUM = _RULE_METRICS

EXTENDED_METRICS = (
    "ece",
    "nll",
    "aurc",
    "augrc",
    "auroc_errors",
    "oscr",
    "tpr_validation",
    "tnr_validation",
    "tnr_at_tpr99",
    "precision_1pct",
    "precision_10pct",
    "shifted_accuracy",
    *(f"fs_{name}" for name in FULL_SPECTRUM),
)
"""The values that `metrics.extended` computes, each where the cell has what it needs."""

STABILITY = ("tint", "brighter", "darker", "shifted", "jpeg")
"""Slight changes of ID test images, `data.changes`; the keys of `stability` in a record."""

STABILITY_VERSION = "1"
"""Part of the key of a cell with stability; increase it when a change, or the choice of changed images, changes."""

SPREAD = "tuning_spread"
"""How far a cell's AUROC depends on what its settings were chosen on: the largest minus the smallest AUROC that it has
with the settings that each of the sources alone would have chosen."""

SPREAD_VERSION = "1"
"""Part of the key of a cell with a tuning spread; increase it when its definition changes."""

TIES = ("distinct_id", "distinct_ood", "at_threshold_id", "at_threshold_ood")
"""Numbers of distinct scores of a cell's ID and OOD images, and of images whose score equals the threshold."""

LOWER_IS_BETTER = frozenset({"fpr_at_tpr95", "openood_fpr95"})
"""The metrics of `METRICS` for which a lower value is better."""
