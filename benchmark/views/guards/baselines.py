"""The baselines without a network: their rows under a table's detectors, and what they say about its pairs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from oodbench.benchmark.errors import visible
from oodbench.benchmark.views.marks import percent

if TYPE_CHECKING:
    from oodbench.benchmark.views.summary import Block, OodSet, Summary

BEST, ONE_CLASS = "best statistic, OOD seen", "one-class, ID train only"
"""Labels of the rows: the best single statistic, picked on the pair; a model of all of them, fitted on ID training."""

SOLVED = 0.95
"""AUROC from which on a baseline counts as separating a pair."""


def rows_of(block: Block) -> tuple[str, ...]:
    """The baselines that any OOD set of the block has; records of older versions have no one-class model."""
    return tuple(label for label in (BEST, ONE_CLASS) if any(found_of(ood, label) for ood in block.sets))


def found_of(ood: OodSet, label: str) -> Mapping[str, Any]:
    """A baseline's metrics on an OOD set, and the name of its statistic; empty where not measured."""
    return ood.trivial if label == BEST else ood.one_class


def named(ood: OodSet, label: str) -> str:
    """What stands under a baseline's numbers: the statistic in parentheses, with its direction if that is unusual."""
    found = found_of(ood, label)
    if not found.get("statistic"):
        return ""
    unusual = ", either way" * str(found.get("direction", "")).startswith("unusual")
    return visible(f"({found['statistic']}{unusual})")


def value_of(ood: OodSet, label: str, metric: str) -> float | None:
    """A baseline's metric on an OOD set; None where not measured."""
    value = found_of(ood, label).get(metric)
    return value if isinstance(value, int | float) else None


def baseline_lines(summary: Summary) -> Iterator[str]:
    """The lines of the legend: what the rows are, and the pairs that they separate."""
    labels = list(dict.fromkeys(label for block in summary.blocks for label in rows_of(block)))
    if BEST in labels:
        yield (
            f"{_sentence(BEST)}: what one statistic of single images reaches without a network, the one named and "
            "its direction picked on the pair's test images: an upper bound."
        )
    if ONE_CLASS in labels:
        yield (
            f"{_sentence(ONE_CLASS)}: a Gaussian model of all these statistics (brightness, contrast, colour, "
            "spectrum, local structure, compressibility), fitted on ID training images alone, as a detector is."
        )
    if solved := [text for block in summary.blocks for ood in block.sets if (text := _solved(block, ood, labels))]:
        yield (
            f"Warning: without a network, statistics of single images reach AUROC {percent(SOLVED)} or more on these "
            f"pairs, so that a high number there shows little about a detector: {'; '.join(solved)}."
        )


def _sentence(label: str) -> str:
    return label[0].upper() + label[1:]


def _solved(block: Block, ood: OodSet, labels: list[str]) -> str:
    """The pair and the baselines that separate it; empty if none does."""
    found = [
        f"{named(ood, label).strip('()') or 'one-class model'} {percent(value)}"
        for label in labels
        if (value := value_of(ood, label, "auroc")) is not None and value >= SOLVED
    ]
    return f"{block.id_set} against {ood.name} ({', '.join(found)})" if found else ""
