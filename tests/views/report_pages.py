"""Made-up reports of any size, to try the page with: drawn numbers, exact distributions, and names as given."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from oodbench.benchmark.metrics.exact import evaluate
from oodbench.benchmark.views.report import data
from oodbench.benchmark.views.report.classes import ClassList, ClassNumbers

LEVELS = [float(level) for level in np.linspace(0, 1, 201)]

CLASSES = (4, 100, 200)
"""Numbers of classes of the first OOD sets."""

METRICS = {
    "auroc": ("AUROC", False),
    "fpr_at_tpr95": ("FPR95", True),
    "tnr_at_tpr95": ("TNR95", False),
    "detection_accuracy": ("Detection accuracy", False),
}


def made_up_report(
    detectors: Sequence[str] | int = 8,
    sets: int = 4,
    id_sets: int = 2,
    seeds: int = 1,
    images: int = 12,
    title: str = "A report",
    note: str = "A note of the run.",
) -> data.ReportData:
    """A report with detectors of the given names, or that many; half of the sets near, half far."""
    random = np.random.default_rng(0)
    names = [f"Detector {place + 1}" for place in range(detectors)] if isinstance(detectors, int) else list(detectors)
    blocks = [_block(place, sets) for place in range(id_sets)]
    rows: list[data.Row] = []
    cells: list[data.Cell] = []
    curves: list[data.Distribution] = []
    pairs: list[data.Pairs] = []
    for block in blocks:
        first = len(rows)
        for place, name in enumerate(names):
            at = len(rows)
            own, curve = [], len(curves)
            id_scores = np.sort(random.normal(0, 1, 400))
            curves.append(distribution(id_scores))
            for number in range(sets):
                ood_scores = random.normal(0.5 + 2 * (place + 1) / len(names) + 0.3 * (number % 3), 1.3, 300)
                curves.append(distribution(ood_scores))
                own.append(_cell(at, number, id_scores, ood_scores, seeds, data.Curve(curve, len(curves) - 1, 0)))
            cells += own
            rows.append(_row(block, name, place, own, sets))
        pairs += [_pairs(block.id, number, range(first, len(rows)), cells) for number in range(sets)]
    pictures = [_picture(place, random) for place in range(images)]
    return data.ReportData(
        title=title,
        made=data.Made("0.1.0", "bench report made-up"),
        runs=[_run(seeds, note)],
        notes=[],
        seeds=list(range(seeds)),
        metrics=[
            data.Metric(name, text, low, f"What {text} is, in one sentence.") for name, (text, low) in METRICS.items()
        ],
        id_sets=blocks,
        rows=rows,
        cells=cells,
        levels=LEVELS,
        distributions=curves,
        pairs=pairs,
        pictures=pictures,
        mistakes=[one for block in blocks for one in _mistakes(block.id, rows, images)],
        published=[_published()],
        class_lists=[ClassList([f"ID {k}" for k in range(10)], [40] * 10), *map(_ood_classes, CLASSES)],
        texts=["temperature = 1000", "scores: 0123abcd", "more than 1% of the scores are equal to the threshold"],
    )


def distribution(scores: NDArray[np.float64]) -> data.Distribution:
    """The score at each of `LEVELS`, as `data.Distribution` says it."""
    ranks = np.maximum(np.ceil(np.array(LEVELS) * len(scores) - 1e-9).astype(int), 1) - 1
    values = np.sort(scores)[ranks].astype("<f8")
    return data.Distribution(len(scores), base64.b64encode(values.tobytes()).decode())


def _block(place: int, sets: int) -> data.Block:
    shown = [
        data.OodSet(f"ood-{n}", f"ood-{n}", "near" if n < sets / 2 else "far", False, 300, None, [])
        for n in range(sets)
    ]
    return data.Block(place, f"id-{place}", f"id-{place}", "made-up", ["small_cnn"], ["near", "far"], shown, 400)


def _cell(
    row: int, place: int, id_scores: NDArray[np.float64], ood_scores: NDArray[np.float64], seeds: int, curve: data.Curve
) -> data.Cell:
    if row % 7 == 6 and place == 1:
        return data.Cell(
            row, place, "failed", "RuntimeError: out of memory", False, {}, [], [], [], [], None, "it failed"
        )
    values = {name: value for name, value in evaluate(id_scores, ood_scores).items() if name in METRICS}
    spread = 0.004 if seeds > 1 else None
    stats = {
        name: data.Stat(value, spread, max(0.0, value - 0.02), min(1.0, value + 0.02), None, seeds)
        for name, value in values.items()
    }
    stats["auroc"] = data.Stat(*_front(stats["auroc"]), row % 5 == 4, seeds)
    by_seed = [
        data.SeedNumbers(seed, "ok", {name: v - 0.004 * seed for name, v in values.items()}) for seed in range(seeds)
    ]
    warned = [2] if row == 1 and place == 0 else []
    return data.Cell(
        row,
        place,
        "ok",
        "",
        row == 3 and place == 0,
        stats,
        by_seed,
        warned,
        [0],
        [1],
        curve,
        doubtful=["auroc"] * bool(warned),
        by_class=_by_class(place) if row % 2 == 0 else None,
    )


def _ood_classes(count: int) -> ClassList:
    return ClassList([f"a class of birds, number {k}" for k in range(count)], [300 // count] * count)


def _by_class(place: int) -> ClassNumbers | None:
    """A matrix that is read at a glance, one of 100 rows, one that is too large to be shown, and none."""
    if place >= len(CLASSES):
        return None
    random, count = np.random.default_rng(place), CLASSES[place]
    pairs = random.uniform(0.3, 1, (10, count))
    of_id, of_ood = (
        [[v, max(0.0, v - 0.1), min(1.0, v + 0.1)] for v in pairs.mean(axis=axis).tolist()] for axis in (1, 0)
    )
    if count > 130:
        return ClassNumbers(0, 1 + place, of_id, of_ood, [], [[k % 10, k, 0.3 + 0.01 * k] for k in range(30)])
    return ClassNumbers(0, 1 + place, of_id, of_ood, pairs.tolist(), [])


def _front(stat: data.Stat) -> tuple[float, float | None, float | None, float | None]:
    return stat.mean, stat.std, stat.low, stat.high


def _row(block: data.Block, name: str, place: int, cells: Sequence[data.Cell], sets: int) -> data.Row:
    means: dict[str, dict[str, data.Stat]] = {}
    for group in ("near", "far"):
        members = [cell for cell, one in zip(cells, block.sets, strict=True) if one.group == group]
        if all(cell.stats for cell in members) and members:
            means[group] = {
                metric: data.Stat(float(np.mean([cell.stats[metric].mean for cell in members]))) for metric in METRICS
            }
    kind, extra = ("post-hoc", "") if place % 4 else ("trained", "outliers")
    return data.Row(
        block=block.id,
        run="made-up",
        label=f"label_{place}",
        name=name,
        detector=f"label_{place}",
        kind=kind,
        recipe="cross_entropy",
        backbone="small_cnn",
        settings="",
        data=extra,
        passes="1",
        networks="1",
        cite=f"made{place}",
        paper="A. Author: A paper, 2020",
        latex=name.replace("_", r"\_"),
        accuracy=data.Stat(0.93),
        means=means,
        worst={},
    )


def _pairs(block: int, place: int, rows: Sequence[int], cells: Sequence[data.Cell]) -> data.Pairs:
    area = {cell.row: cell.stats["auroc"].mean for cell in cells if cell.set == place and cell.stats}
    used = [row for row in rows if row in area]
    differences = [area[a] - area[b] for a, b in combinations(used, 2)]
    p = [min(1.0, 0.05 * 0.02 / max(abs(one), 1e-9)) for one in differences]
    return data.Pairs(block, place, used, [0], differences, [0.02] * len(p), p, [min(1.0, 3 * one) for one in p], [])


def _picture(place: int, random: np.random.Generator) -> data.Picture:
    buffer = io.BytesIO()
    pixels = random.integers(0, 255, (8, 8, 3)).astype(np.uint8).repeat(4, 0).repeat(4, 1)
    Image.fromarray(pixels).save(buffer, "WEBP", quality=60)
    uri = "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
    return data.Picture(f"image {place}", f"class {place % 3}", uri)


def _mistakes(block: int, rows: Sequence[data.Row], images: int) -> list[data.Mistakes]:
    here = [at for at, row in enumerate(rows) if row.block == block]
    shown = [data.Mistake(place, 1.5 - place / 10, len(here)) for place in range(images)]
    by_row = [data.RowMistakes(at, 0.7, 20, shown) for at in here]
    return [
        data.Mistakes(block, place, 400, len(here), shown, 20, by_row, "" if images else "no images were asked for")
        for place in (None, 0)
    ]


def _published() -> data.PublishedNumber:
    return data.PublishedNumber(
        reference="made2020",
        title="A paper of 2020",
        block=0,
        row=0,
        set=0,
        group="",
        metric="auroc",
        published="91.3",
        std="0.2",
        ours=90.6,
        difference=-0.7,
        reasons=["Other epochs."],
        source="table 1",
        verified=False,
    )


def _run(seeds: int, note: str) -> data.Run:
    return data.Run(
        name="made-up",
        command="bench run",
        suite="made-up",
        suite_title="A made-up suite",
        seeds=list(range(seeds)),
        machine={"processor": "a processor"},
        versions={"oodbench": "0.1.0"},
        notes=[note],
        warnings=["A warning."],
        skipped=[["odin", "needs gradients"]],
        unfinished=[],
    )
