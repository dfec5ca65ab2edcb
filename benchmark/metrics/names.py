"""The names of all metrics, as records and columns use them, and which of them are better when lower."""

from __future__ import annotations

EXTENDED = "extended"
"""As `--metrics` takes it."""

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
"""Columns of `records.csv` that `oodbench.benchmark.metrics.exact` computes, all in [0, 1]."""

METRICS_VERSION = "1"
"""Part of every cell's key; raise it when a metric's value changes."""

EXACT = "exact"
"""The metrics above; other metric rules (`audit.RULES`) are computed beside them where asked for."""

_RULE_METRICS = ("tnr_at_tpr95", "auroc", "detection_accuracy", "aupr_in", "aupr_out")

RULE_METRICS = (*_RULE_METRICS, "top_bin_id", "top_bin_ood", *(f"float32_{name}" for name in _RULE_METRICS))
"""What other metric rules give: their values, shares in the grid's last bin, and exact metrics of float32 values."""

FULL_SPECTRUM = _RULE_METRICS

EXTENDED_METRICS = (
    "ece",
    "nll",
    "aurc",
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
"""What `extended.extended` gives, as far as a cell has it."""

TIES = ("distinct_id", "distinct_ood", "at_threshold_id", "at_threshold_ood")
"""How many different scores a cell's ID and OOD images have, and how many of them have exactly the threshold's."""

LOWER_IS_BETTER = frozenset({"fpr_at_tpr95", "openood_fpr95"})
