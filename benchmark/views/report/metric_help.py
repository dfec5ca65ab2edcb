"""What a report says of metrics: a short title, and one sentence for readers who do not know it."""

from __future__ import annotations

TITLES = {
    "auroc": "AUROC",
    "tnr_at_tpr95": "TNR95",
    "fpr_at_tpr95": "FPR95",
    "openood_fpr95": "FPR95 (OOD positive)",
    "detection_accuracy": "DetAcc",
    "aupr_in": "AUPR-in",
    "aupr_out": "AUPR-out",
    "aupr_in_counts": "AUPR-in (counts)",
    "aupr_out_counts": "AUPR-out (counts)",
    "ece": "ECE",
    "nll": "NLL (nats)",
    "aurc": "AURC",
    "auroc_errors": "AUROC of errors",
    "oscr": "OSCR",
    "tpr_validation": "TPR, validation threshold",
    "tnr_validation": "TNR, validation threshold",
    "tnr_at_tpr99": "TNR99",
    "precision_1pct": "Precision at 1% OOD",
    "precision_10pct": "Precision at 10% OOD",
    "shifted_accuracy": "Accuracy, shifted sets",
}

HELP = {
    "auroc": "How often a random OOD image scores higher than a random ID image; ties count one half.",
    "tnr_at_tpr95": "Share of OOD images that are rejected where 95% of ID images are accepted.",
    "fpr_at_tpr95": "Share of OOD images that are accepted where 95% of ID images are accepted.",
    "openood_fpr95": "Share of ID images that are rejected where 95% of OOD images are rejected, OpenOOD's convention.",
    "detection_accuracy": "Mean of the shares of ID accepted and of OOD rejected, at the best threshold.",
    "aupr_in": "Average precision with ID positive; both sets weigh the same.",
    "aupr_out": "Average precision with OOD positive; both sets weigh the same.",
    "aupr_in_counts": "Average precision with ID positive; every image weighs the same.",
    "aupr_out_counts": "Average precision with OOD positive; every image weighs the same.",
}
