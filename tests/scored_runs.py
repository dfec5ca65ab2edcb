"""Runs for tests of views: records and scores written into a results folder, without networks or torch.

The scores of every cell are what a function says, and its metrics and intervals are those of the scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from oodbench.benchmark.metrics.exact import Counts, evaluate_counts, ties_of
from oodbench.benchmark.records.record import Record, write_record
from oodbench.benchmark.records.run import StoredRun, read_stored_run, write_run_info
from oodbench.benchmark.store.atomic import unique_slug
from oodbench.benchmark.store.schema import ScoredSet

Scores = Callable[[str, str, int], np.ndarray]
"""(label, set, seed) -> scores; the ID set's do not depend on the OOD set."""


def normal_scores(label: str, name: str, seed: int, count: int = 200) -> np.ndarray:
    """Scores that resemble each other: OOD is higher, the more letters the label has."""
    images = np.random.default_rng([*name.encode()]).normal(size=count)
    own = np.random.default_rng([seed, *label.encode(), *name.encode()]).normal(size=count)
    return images + own / 2 + (0.0 if name == "digits" else 0.1 * len(label))


def scored_run(
    results: Path,
    name: str = "made_up",
    *,
    labels: Sequence[str] = ("msp", "energy", "knn[k=5]"),
    sets: Mapping[str, str] | None = None,
    seeds: Sequence[int] = (0,),
    id_set: str = "digits",
    scores: Scores = normal_scores,
    change: Callable[[Record], Record | None] = lambda record: record,
    **info: Any,
) -> StoredRun:
    """Write and read a run.

    Args:
        results: The results folder.
        name: The run's name.
        labels: The detectors, as tables label them.
        sets: OOD set -> its group.
        seeds: The seeds.
        id_set: The ID set.
        scores: What every image gets.
        change: Changes a record before it is written; None leaves it out, as in an unfinished run.
        info: Further fields of `run.json`.
    """
    sets = {"glyphs": "near", "uniform": "far"} if sets is None else sets
    folder = results / "runs" / unique_slug(name)
    names: list[str] = []
    known: dict[tuple[str, str, int], np.ndarray] = {}
    for label in labels:
        for ood_set, group in sets.items():
            for seed in seeds:
                paths = {}
                for side, one in (("id_scores", id_set), ("ood_scores", ood_set)):
                    found = known.setdefault((label, one, seed), np.asarray(scores(label, one, seed)))
                    paths[side] = f"scores/{unique_slug(f'{name}-{label}-{one}-{seed}')}.npy"
                    path = results / "cache" / paths[side]
                    path.parent.mkdir(parents=True, exist_ok=True)
                    np.save(path, found)
                pair = known[label, id_set, seed], known[label, ood_set, seed]
                record = _record(label, id_set, ood_set, group, seed, pair)
                record = replace(record, artifacts=paths, key=f"{name} {label} {id_set} {ood_set} {seed}")
                names.append(record.file_name)
                if (changed := change(record)) is not None:
                    names[-1] = write_record(folder, changed).name
    pairs = [
        {"id_set": id_set, "ood_set": one, "group": group, "scored": {"id": _images(id_set), "ood": _images(one)}}
        for one, group in sets.items()
    ]
    write_run_info(folder, {"name": name, "pairs": pairs, "seeds": list(seeds), "cells": names, **info})
    return read_stored_run(folder)


def _images(name: str) -> ScoredSet:
    """What stands for the images of a set."""
    return {"part": "test", "images": 200, "checksum": f"of {name}", "groups": ""}


def _record(
    label: str, id_set: str, ood_set: str, group: str, seed: int, pair: tuple[np.ndarray, np.ndarray]
) -> Record:
    counts = Counts.of(*pair)
    values = evaluate_counts(counts)
    detector, _, recipe = label.partition("@")
    return Record(
        id_set=id_set, ood_set=ood_set, group=group, outlier_source=False, seen=False,
        detector=detector.partition("[")[0], settings={}, recipe=recipe or "cross_entropy", recipe_settings={},
        backbone="small_cnn", seed=seed, label=label, n_id=len(pair[0]), n_ood=len(pair[1]), tpr=values.pop("tpr"),
        metrics=values, ties=ties_of(counts), id_accuracy=0.9,
        origin={"images": {"id": _images(id_set), "ood": _images(ood_set)}},
    )  # fmt: skip
