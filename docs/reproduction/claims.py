"""The claims of Lee et al. (ICLR 2018) against a finished run's records, as Markdown.

    python docs/reproduction/claims.py results/runs/lee2018-small results/runs/lee2018-mnist

A claim compares two recipes on the same seeds, which share initial weights and order of batches, so differences are
paired: mean over seeds, standard error, and a sign: '+' or '-' where the 95% t interval over the seeds excludes zero,
'=' in between or with one seed; with three seeds the interval is 4.3 standard errors to either side. Nothing is
corrected for the number of comparisons. A claim that is made for all sets holds if no sign is '-' and one is '+',
fails if one is '-', and is undecided otherwise; it is not tested where a network has not learned its task. "Nearly
perfect" is taken as a mean AUROC of at least 99%.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from scipy.stats import t

from oodbench.benchmark.records.record import OK, Record
from oodbench.benchmark.records.run import read_stored_run

LEARNED = {"cifar10": 0.60, "svhn-small": 0.75, "svhn": 0.75, "mnist": 0.98}
"""The least accuracy of a network whose numbers count."""

METRICS = ("tnr_at_tpr95", "auroc", "detection_accuracy")
"""Those of the paper's figure of the four losses."""

PERFECT = 0.99


class Difference(NamedTuple):
    """One metric of two recipes on one pair of sets, in points, over seeds."""

    mean: float
    error: float
    seeds: int

    @property
    def sign(self) -> str:
        """'+', '-' or '='."""
        if self.seeds < 2 or abs(self.mean) <= t.ppf(0.975, self.seeds - 1) * self.error:
            return "="
        return "+" if self.mean > 0 else "-"

    def __str__(self) -> str:
        return f"{self.mean:+.1f} ± {self.error:.1f} {self.sign}"


class Results:
    """The records of one ID set, by detector, OOD set and seed."""

    def __init__(self, id_set: str, records: list[Record]) -> None:
        self.id_set = id_set
        self.cells = {(r.label, r.ood_set, r.seed): r for r in records if r.id_set == id_set and r.status == OK}
        self.sets = list(dict.fromkeys(ood for _, ood, _ in self.cells))
        counts = Counter(seed for _, _, seed in self.cells)
        self.seeds = sorted(seed for seed, count in counts.items() if count == max(counts.values()))
        self.source = {r.ood_set for r in self.cells.values() if r.outlier_source}

    @property
    def unseen(self) -> list[str]:
        """The OOD sets that no recipe trained on."""
        return [name for name in self.sets if name not in self.source]

    def accuracy(self, label: str) -> list[float]:
        """Of a detector's classifier, one a seed."""
        return [self.cells[label, self.sets[0], seed].id_accuracy or 0.0 for seed in self.seeds]

    def learned(self, *labels: str) -> bool:
        """Whether every network reached the accuracy that makes its numbers count."""
        return all(min(self.accuracy(label)) >= LEARNED.get(self.id_set, 0.0) for label in labels)

    def values(self, label: str, ood: str, metric: str) -> list[float]:
        """One a seed."""
        return [self.cells[label, ood, seed].metrics[metric] for seed in self.seeds]

    def difference(self, one: str, other: str, ood: str, metric: str) -> Difference:
        """How much better `one` is than `other`."""
        return _difference(self.values(one, ood, metric), self.values(other, ood, metric))


def _difference(one: list[float], other: list[float]) -> Difference:
    points = [100 * (a - b) for a, b in zip(one, other, strict=True)]
    return Difference(mean(points), stdev(points) / len(points) ** 0.5 if len(points) > 1 else 0.0, len(points))


def _verdict(signs: str) -> str:
    if "-" in signs:
        return "fails"
    return "holds" if "+" in signs else "undecided"


def _spread(values: list[float]) -> str:
    spread = f" ± {100 * stdev(values):.1f}" if len(values) > 1 else ""
    return f"{100 * mean(values):.1f}{spread}"


def claims(results: Results) -> Iterator[tuple[str, str]]:
    """Claim and verdict, (a) to (e)."""
    for ood in sorted(results.source):
        values = [results.values("confidence", ood, metric) for metric in METRICS]
        verdict = "holds" if mean(results.values("confidence", ood, "auroc")) >= PERFECT else "fails"
        shown = ", ".join(f"{metric} {_spread(v)}" for metric, v in zip(METRICS, values, strict=True))
        yield f"(a) confidence loss nearly perfect on the seen set {ood}", _told(results, verdict, shown, "confidence")
    for name, one, other in (
        ("(b) confidence loss on real outliers against cross-entropy, unseen sets", "confidence", "msp"),
        ("(c) joint at least as good as cross-entropy, unseen sets", "joint", "msp"),
        ("(d) joint at least as good as original-GAN samples, unseen sets", "joint", "gan_confidence"),
    ):
        found = {(o, m): results.difference(one, other, o, m) for o in results.unseen for m in METRICS}
        signs = "".join(difference.sign for difference in found.values())
        verdict = f"better in {signs.count('+')}, worse in {signs.count('-')} of {len(signs)}"
        verdict = verdict if name.startswith("(b)") else f"{_verdict(signs)} ({verdict})"
        shown = "; ".join(f"{o} {'  '.join(str(found[o, m]) for m in METRICS)}" for o in results.unseen)
        yield name, _told(results, verdict, shown, one, other)
    for label in ("confidence", "gan_confidence", "joint"):
        difference = _difference(results.accuracy(label), results.accuracy("msp"))
        verdict = "harmed" if difference.sign == "-" else "not harmed"
        yield f"(e) accuracy of {label} against cross-entropy", _told(results, verdict, str(difference), label, "msp")


def _told(results: Results, verdict: str, shown: str, *labels: str) -> str:
    return f"**{verdict if results.learned(*labels) else 'not tested'}** | {shown}"


def main(folders: list[str]) -> None:
    """Print a table of accuracies and one of claims for every ID set."""
    for folder in folders:
        run = read_stored_run(Path(folder))
        for id_set in dict.fromkeys(record.id_set for record in run.records):
            results = Results(id_set, run.records)
            labels = list(dict.fromkeys(label for label, _, _ in results.cells))
            seeds = ", ".join(map(str, results.seeds))
            print(f"\n### {id_set} ({run.info['name']}, seeds {seeds})\n")
            print("| detector | accuracy | " + " | ".join(f"{o} AUROC" for o in results.sets) + " |")
            print("|---" * (len(results.sets) + 2) + "|")
            for label in labels:
                cells = [_spread(results.values(label, ood, "auroc")) for ood in results.sets]
                print(f"| `{label}` | {_spread(results.accuracy(label))} | " + " | ".join(cells) + " |")
            print("\n| claim | verdict | in points: TNR at TPR 95%, AUROC, detection accuracy |\n|---|---|---|")
            for claim, told in claims(results):
                print(f"| {claim} | {told} |")


if __name__ == "__main__":
    main(sys.argv[1:])
