"""A run's order of detectors against a published one, as Markdown.

    python docs/reproduction/order.py results/runs/cifar10-small openood-v1.5-cifar10

Detectors on the suite's base recipe only, each by the mean AUROC over the near and over the far sets, mean over seeds
(standard deviation, ddof = 1); a seed that lacks cells is left out. Ranks count the detectors that both have. Where a
published detector has several values, the one from corrected code is taken, else the first. The rank correlation
(Spearman) is that of the means; in brackets the lowest and highest of the single seeds.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean, stdev

from scipy.stats import rankdata, spearmanr

from oodbench.benchmark.papers.published import Reference, read_reference
from oodbench.benchmark.records.record import OK, Record
from oodbench.benchmark.records.run import read_stored_run

GROUPS = ("near", "far")
SANITY = ("random", "constant")

BySeed = dict[int, float]


def measured(records: Sequence[Record], group: str) -> dict[str, BySeed]:
    """Detector -> seed -> mean AUROC over the group's sets, of detectors on the run's base recipe."""
    base = records[0].recipe
    cells: dict[tuple[str, int], list[float]] = {}
    for record in records:
        if (record.status, record.group, record.recipe) == (OK, group, base) and record.label == record.detector:
            cells.setdefault((record.detector, record.seed), []).append(record.metrics["auroc"])
    found: dict[str, BySeed] = {}
    for (name, seed), values in cells.items():
        found.setdefault(name, {})[seed] = mean(values)
    return found


def complete(records: Sequence[Record]) -> list[Record]:
    """Those of the seeds that have as many cells as any: means over unlike seeds would not compare."""
    counts = Counter(record.seed for record in records)
    return [record for record in records if counts[record.seed] == max(counts.values())]


def published(reference: Reference, group: str, recipe: str) -> dict[str, float]:
    """Detector -> the published mean AUROC over the group's sets, in percent."""
    found: dict[str, float] = {}
    for value in reference.values:
        asked = (value.group, value.metric) == (group, "auroc") and recipe in value.recipe.split("|")
        if asked and (value.detector not in found or "with the corrected code" in value.note):
            found[value.detector] = value.percent
    return found


def agreement(ours: dict[str, BySeed], theirs: dict[str, float]) -> str:
    """Rank correlation over the detectors that both have."""
    shared = sorted(name for name in ours if name in theirs)
    seeds = sorted(set.intersection(*(set(ours[name]) for name in shared)))
    other = [theirs[name] for name in shared]
    whole = spearmanr([mean(ours[name].values()) for name in shared], other).statistic
    single = [spearmanr([ours[name][seed] for name in shared], other).statistic for seed in seeds]
    return f"{whole:.2f} ({min(single):.2f} to {max(single):.2f}; {len(shared)} detectors)"


def written(values: BySeed) -> str:
    """Percent over seeds."""
    spread = f" ± {100 * stdev(values.values()):.1f}" if len(values) > 1 else ""
    return f"{100 * mean(values.values()):.1f}{spread}"


def ranks(values: dict[str, float]) -> dict[str, str]:
    """1 for the best; ties share."""
    names = list(values)
    return {name: f"{rank:g}" for name, rank in zip(names, rankdata([-values[n] for n in names]), strict=True)}


def lines(records: Sequence[Record], reference: Reference) -> Iterator[str]:
    """The page."""
    ours = {group: measured(records, group) for group in GROUPS}
    theirs = {group: published(reference, group, "checkpoint") for group in GROUPS}
    shared = [name for name in ours["near"] if name in theirs["near"] and name not in SANITY]
    our_ranks = {g: ranks({name: mean(ours[g][name].values()) for name in shared}) for g in GROUPS}
    their_ranks = {g: ranks({name: theirs[g][name] for name in shared}) for g in GROUPS}
    yield "| detector | near, ours | near, published | rank | far, ours | far, published | rank |"
    yield "|---|--:|--:|:-:|--:|--:|:-:|"
    for name in sorted(ours["near"], key=lambda n: -mean(ours["near"][n].values())):
        cells = [f"`{name}`"]
        for group in GROUPS:
            both = name in shared
            cells += [written(ours[group][name]), f"{theirs[group][name]:.1f}" if both else ""]
            cells += [f"{our_ranks[group][name]} / {their_ranks[group][name]}" if both else ""]
        yield f"| {' | '.join(cells)} |"
    yield ""
    for group in GROUPS:
        yield f"Rank correlation, {group}: {agreement(ours[group], theirs[group])}."


def main() -> None:
    """Print the page of the run and the reference that the command line names."""
    if len(sys.argv) != 3:
        raise SystemExit("Give a run's folder and the name of published numbers: see 'bench table --help'.")
    run = read_stored_run(Path(sys.argv[1]))
    records = complete([r for r in run.records if r.status == OK])
    print("\n".join(lines(records, read_reference(sys.argv[2]))))


if __name__ == "__main__":
    main()
