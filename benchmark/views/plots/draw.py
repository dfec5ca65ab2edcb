"""The plots of a run: PNG for the screen and SVG for a paper, in kinds that suit the number of its detectors.

They use matplotlib's figure objects and never pyplot, so there is no global state and no window system. Equal runs give
equal bytes. The colours suit colour-blind readers; line styles, hatches, forms and printed numbers survive print in
greys. `KINDS` has a function for every kind of picture.
"""

from __future__ import annotations

from oodbench.benchmark.views.plots import no_gui  # noqa: F401  (before matplotlib)

# isort: split

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from matplotlib.figure import Figure

from oodbench.benchmark.records.record import OTHER_THREADS, QUICK_TEST, QUICK_TRAINING
from oodbench.benchmark.records.run import StoredRun, read_stored_run
from oodbench.benchmark.store.atomic import slug, unique_slug
from oodbench.benchmark.views.plots import style as canvas
from oodbench.benchmark.views.plots.bars import bars
from oodbench.benchmark.views.plots.heatmap import heatmap
from oodbench.benchmark.views.plots.histograms import histograms
from oodbench.benchmark.views.plots.multiples import multiples
from oodbench.benchmark.views.plots.options import FEW, Options, in_colour, shown
from oodbench.benchmark.views.plots.roc import roc
from oodbench.benchmark.views.plots.rows import dots
from oodbench.benchmark.views.plots.scores import PairScores, ScoreReader
from oodbench.benchmark.views.plots.two_processes import NOT_THE_SAME, fingerprint, second_process, worth_it
from oodbench.benchmark.views.summary import Block, Summary, summary_of

ROWS_A_PAGE = 12
"""Detectors in one picture of histograms."""

Pictures = Iterator[tuple[str, Callable[[], Figure]]]
"""Names of files without an ending, and what draws each."""


def draw(run: StoredRun, cache_dir: Path) -> list[Path]:
    """Draw all plots that the run's records and the scores in `cache_dir` allow into the run's `plots/`.

    Of many, every other one is drawn in a second process; if that fails, here.
    """
    wanted = _pictures_of(run, cache_dir)
    if not worth_it(run, len(wanted)):
        return _drawn(run, wanted)
    first, second = wanted[::2], wanted[1::2]
    with second_process(run, cache_dir) as process:
        paths = _drawn(run, first)
    paths += _drawn(run, second) if process.returncode else _paths(run, second)
    places = {name: place for place, (name, _) in enumerate(wanted)}
    return sorted(paths, key=lambda path: places[path.stem])  # stable: the formats of a picture stay in order


def draw_half(folder: str, cache_dir: str, expected: str) -> None:
    """Draw every other plot of the run in a folder: what the second process does.

    Exits with `NOT_THE_SAME` if the run is not the `expected` one.
    """
    run = read_stored_run(Path(folder))
    if fingerprint(run) != expected:
        sys.exit(NOT_THE_SAME)
    _drawn(run, _pictures_of(run, Path(cache_dir))[1::2])


def _pictures_of(run: StoredRun, cache_dir: Path) -> list[tuple[str, Callable[[], Figure]]]:
    summary = summary_of(run)
    return list(pictures(summary, score_reader(run, summary, cache_dir), options_for(run, summary)))


def _drawn(run: StoredRun, wanted: Sequence[tuple[str, Callable[[], Figure]]]) -> list[Path]:
    with canvas.styled():
        return [path for name, make in wanted for path in canvas.saved(make(), run.path / "plots", name)]


def _paths(run: StoredRun, wanted: Sequence[tuple[str, Callable[[], Figure]]]) -> list[Path]:
    """The files of pictures that are drawn already, in the default formats."""
    return [run.path / "plots" / f"{name}.{form}" for name, _ in wanted for form in canvas.DEFAULT_FORMATS]


def score_reader(run: StoredRun, summary: Summary, cache_dir: Path) -> ScoreReader:
    """The scores of the run's first seed."""
    return ScoreReader.of(run, cache_dir, summary.seeds[0] if summary.seeds else 0)


def options_for(run: StoredRun, summary: Summary, options: Options | None = None) -> Options:
    """Options with what the run knows: seeds, warnings, and a look for every detector."""
    beginnings = {
        QUICK_TRAINING: "quick look: training shortened",
        QUICK_TEST: "quick look: test images left out",
        OTHER_THREADS: OTHER_THREADS,
    }
    notes = {note for record in run.records for note in record.notes}
    remarks = [text for start, text in beginnings.items() if any(note.startswith(start) for note in notes)]
    seeds = summary.seeds or (0,)
    seed = f"seed {seeds[0]}" + (f", the first of {len(seeds)}" if len(seeds) > 1 else "")
    known = replace(options or Options(), seeds=max(len(summary.seeds), 1), seed=seed, remark="; ".join(remarks))
    return replace(known, looks=looks_of(summary, known))


def looks_of(summary: Summary, options: Options) -> dict[str, canvas.Look]:
    """A look for every detector: those that stand out somewhere come first, so that theirs differ most."""
    front = [row.label for block in summary.blocks for row in in_colour(block, options)]
    few = [row.label for block in summary.blocks if len(block.rows) <= FEW for row in block.rows]
    return canvas.looks([*few, *front, *(row.label for block in summary.blocks for row in block.rows)])


def pictures(summary: Summary, scores: PairScores, options: Options, kinds: Sequence[str] = ()) -> Pictures:
    """The pictures of a summary, of some kinds or those that suit the number of rows, and the names of their files."""
    slugs = Counter(slug(block.id_set) for block in summary.blocks)
    for block in summary.blocks:
        name = slug(block.id_set)
        if slugs[name] > 1:  # such as digits[0-2] and digits+0-2
            name = unique_slug(block.id_set)
        wanted = kinds or (FEW_KINDS if len(block.rows) <= FEW else MANY_KINDS)
        for kind in wanted:
            if kind in OF_A_BLOCK:
                yield from ((f"{kind}_{name}{page}", make) for page, make in OF_A_BLOCK[kind](block, scores, options))
    if summary.blocks and (not kinds or "heatmap" in kinds):
        yield "heatmap", lambda: heatmap(summary, options)


Pages = Iterator[tuple[str, Callable[[], Figure]]]


def _one(make: Callable[[Block, PairScores, Options], Figure]) -> Callable[[Block, PairScores, Options], Pages]:
    def pages(block: Block, scores: PairScores, options: Options) -> Pages:
        yield "", lambda: make(block, scores, options)

    return pages


def _histogram_pages(block: Block, scores: PairScores, options: Options) -> Pages:
    rows, _ = shown(block, options)
    for page in range(0, len(rows), ROWS_A_PAGE):
        part = rows[page : page + ROWS_A_PAGE]
        number = f"_{page // ROWS_A_PAGE + 1}" if page else ""
        yield number, lambda part=part: histograms(block, part, scores, options)  # type: ignore[misc]


OF_A_BLOCK: dict[str, Callable[[Block, PairScores, Options], Pages]] = {
    "roc": _one(roc),
    "histograms": _histogram_pages,
    "bars": _one(lambda block, scores, options: bars(block, options)),
    "dots": _one(lambda block, scores, options: dots(block, options)),
    "multiples": _one(multiples),
}
"""Kind -> the pictures of one ID set, with what is added to the name of each further page."""

KINDS = {
    "roc": "ROC curves: the best detectors in colour, the rest in grey",
    "histograms": "scores of ID and OOD images",
    "bars": "bars of the main metrics",
    "dots": "near and far means with intervals, one row per detector",
    "heatmap": "one metric over all cells",
    "multiples": "a small ROC panel per detector",
}
"""Kind of picture -> what it shows."""

FEW_KINDS = ("roc", "histograms", "bars")
MANY_KINDS = ("roc", "histograms", "dots", "multiples")
"""What is drawn of an ID set with few detectors, and with many; beside the heat map of all."""
