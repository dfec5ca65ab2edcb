"""What `bench export` says about a bundle."""

from __future__ import annotations

from pathlib import Path

from oodbench.benchmark.standalone.bundle.contents import Bundle


def exported_text(bundle: Bundle, file: Path) -> str:
    """The bundle in a few lines: what is in it, its threshold, and how to use it."""
    weights = "with its weights" if bundle.weights.included else "with the hash of its weights"
    lines = [
        f"{bundle.detector.spec} on {bundle.id_set}, network {bundle.backbone.spec} {weights}: {file}",
        *threshold_lines(bundle),
        f"Score images with: bench score {file} IMAGES...",
    ]
    return "\n".join(lines)


def threshold_lines(bundle: Bundle) -> list[str]:
    """The threshold, and how well the validation images determine it."""
    found, groups = bundle.threshold, bundle.validation.groups
    of_groups = f" of {groups} group{'s' * (groups != 1)} that depend on each other" if groups else ""
    first = (
        f"Accepted: score <= {found.value:.6g}, as {100 * found.accepted:.1f}% of {found.images:,} ID validation "
        f"images{of_groups} are."
    )
    if groups == 1:
        return [first, "How many of all ID images that accepts is unknown, as one group says nothing about others."]
    low, high = ("unknown" if end is None else f"{end:.6g}" for end in (found.low, found.high))
    return [
        first,
        f"Of all ID images, {100 * found.accepted_low:.1f}% to {100 * found.accepted_high:.1f}% are accepted; the "
        f"threshold that accepts {100 * found.tpr:g}% of them is between {low} and {high} (95% intervals).",
    ]


def onnx_text(bundle: Bundle, file: Path, takes: str, difference: float | None) -> str:
    """What was written as ONNX, and how far its scores are from the detector's."""
    shape = ", ".join(map(str, bundle.input.shape))
    tried = (
        "not tried, as onnxruntime is not installed"
        if difference is None
        else f"scores in onnxruntime differ from the detector's by at most {difference:.1g} of their spread"
    )
    return f"ONNX graph: {file} (images {takes} (N, {shape}) -> score, accepted, predicted, logits; {tried})"
