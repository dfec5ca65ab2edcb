"""Pictures of a run by choice: of some kinds, rows, sets and metrics, in a size and a style."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from matplotlib.figure import Figure

from oodbench.benchmark.errors import UserError, unknown
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.views.choice import Wanted, check_order, choose_rows, chosen, split_names
from oodbench.benchmark.views.metric_titles import metrics_of
from oodbench.benchmark.views.plots import draw as plots
from oodbench.benchmark.views.plots import style as canvas
from oodbench.benchmark.views.plots.options import Options
from oodbench.benchmark.views.plots.page import Size
from oodbench.benchmark.views.plots.style import FORMATS, style_named
from oodbench.benchmark.views.recorded import check_recorded
from oodbench.benchmark.views.summary import Summary, summary_of

LEAST, MOST = 2.0, 100.0
"""Inches of a picture's width that can be asked for."""

FOLDER = "chosen"
"""The folder in a run's `plots/` for pictures that were asked for without naming a place."""


@dataclass(frozen=True)
class PlotChoice:
    """What is asked for; empty values mean all, or the default."""

    kinds: Wanted = ()
    detectors: Wanted = ()
    ood: Wanted = ()
    id_sets: Wanted = ()
    metrics: Wanted = ()
    sort: str = ""
    best: int | None = None
    highlight: Wanted = ()
    size: Size = field(default_factory=Size)
    style: str = "screen"
    log_fpr: bool = False
    names: Mapping[str, str] = field(default_factory=dict)
    """Label -> the name that is displayed."""


def parse_size(text: str) -> Size:
    """A size as typed, in inches: '3.3x2.5', or the width alone, '3.3', for a height that suits the content.

    Raises:
        UserError: If it is neither, or the width is not between 2 and 100 inches.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(?:x(\d+(?:\.\d+)?))?(?:in)?", text.strip().lower())
    if not found:
        raise UserError(f"--size is '{text}'; expected inches as WIDTHxHEIGHT or WIDTH, such as 3.3x2.5 or 3.3.")
    width, height = float(found[1]), float(found[2]) if found[2] else None
    if not LEAST <= width <= MOST or (height is not None and not 0.5 <= height <= MOST):
        raise UserError(f"--size is '{text}'; expected a width of {LEAST:g} to {MOST:g} inches and a height up to it.")
    return Size(width, height, exact=True)


def kinds_of(wanted: Wanted) -> list[str]:
    """Kinds of pictures by name. Raises `UserError` for one that does not exist."""
    kinds = split_names(wanted)
    for kind in kinds:
        if kind not in plots.KINDS:
            raise unknown("kind of plot", kind, plots.KINDS, "bench plot --help")
    return list(dict.fromkeys(kinds))


def formats_of(wanted: Wanted) -> list[str]:
    """Formats of files by name. Raises `UserError` for one that does not exist."""
    formats = split_names(wanted)
    for form in formats:
        if form not in FORMATS:
            raise unknown("format", form, FORMATS, "bench plot --help")
    return list(dict.fromkeys(formats))


def prepared(run: StoredRun, choice: PlotChoice) -> tuple[Summary, Options]:
    """The rows and sets that are asked for, and the options of their pictures. Raises `UserError` for wrong names."""
    whole = summary_of(run)
    labels = [row.label for block in whole.blocks for row in block.rows]
    highlight = choose_rows(labels, choice.highlight, choice.names) if split_names(choice.highlight) else []
    summary = chosen(whole, choice.detectors, choice.ood, choice.id_sets, choice.names)
    metrics = metrics_of(split_names(choice.metrics))
    check_recorded(summary.blocks, metrics)
    if choice.sort:
        check_order(summary.blocks, choice.sort)
    asked = Options(
        size=choice.size,
        metrics=tuple(metrics),
        sort=choice.sort,
        best=choice.best,
        highlight=tuple(highlight),
        log_fpr=choice.log_fpr,
        names=choice.names,
    )
    return summary, plots.options_for(run, summary, asked)


def chosen_pictures(run: StoredRun, cache_dir: Path, choice: PlotChoice) -> Iterator[tuple[str, Figure]]:
    """The pictures that are asked for, each with the name of its file; call it within the style (`style.styled`)."""
    summary, options = prepared(run, choice)
    scores = plots.score_reader(run, summary, cache_dir)
    for name, make in plots.pictures(summary, scores, options, kinds_of(choice.kinds)):
        yield name, make()


def save_chosen(
    run: StoredRun, cache_dir: Path, choice: PlotChoice, formats: Sequence[str] = (), out: Path | None = None
) -> list[Path]:
    """Draw what is asked for, and return the files.

    Args:
        run: The run.
        cache_dir: Where its scores are.
        choice: What to draw.
        formats: 'png', 'svg', 'pdf'; by default that of a file named as `out`, or else PNG and SVG.
        out: A file, if there is one picture, or a folder; by default `plots/chosen` in the run's folder.

    Raises:
        UserError: If something does not exist, does not fit the size, or `out` is one file for several pictures.
    """
    is_file = out is not None and out.suffix[1:].lower() in FORMATS
    forms = formats_of(formats) or ([out.suffix[1:].lower()] if out is not None and is_file else ["png", "svg"])
    style = style_named(choice.style)
    with canvas.styled(style):
        summary, options = prepared(run, choice)
        scores = plots.score_reader(run, summary, cache_dir)
        makers = list(plots.pictures(summary, scores, options, kinds_of(choice.kinds)))
        if is_file and len(makers) != 1:
            names = ", ".join(name for name, _ in makers[:8]) or "none"
            raise UserError(
                f"--output {out} is one file, but there are {len(makers)} pictures ({names}). Choose one with --kind, "
                "--id and --best, or name a folder."
            )
        folder = out or run.path / "plots" / FOLDER
        option = "--results" if out is None else "--output"
        paths: list[Path] = []
        for name, make in makers:
            place, stem = (folder.parent, folder.stem) if is_file else (folder, name)
            paths += canvas.saved(make(), place, stem, forms, option)
    return paths
