"""Draws the figures of a paper from a run, panel by panel, and writes their captions to one page."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from oodbench.benchmark.data.library import Library
from oodbench.benchmark.errors import OodbenchError, UserError
from oodbench.benchmark.papers.figure_inputs import RunFigureInputs
from oodbench.benchmark.plan.plan import Absence
from oodbench.benchmark.plugins.figures import Figures
from oodbench.benchmark.plugins.neighbours.hardware import torch_threads
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.records.paths import cache_of, run_dir
from oodbench.benchmark.records.record import OK
from oodbench.benchmark.records.run import StoredRun, read_stored_run
from oodbench.benchmark.stages.context import JobContext
from oodbench.benchmark.store.atomic import write_atomically
from oodbench.benchmark.store.store import Store
from oodbench.benchmark.views.plots import style as canvas

CAPTIONS = "captions.md"


@dataclass(frozen=True)
class FigureRequest:
    """Figures that can be drawn: everything is resolved, nothing is drawn yet."""

    figures: Figures
    inputs: RunFigureInputs
    panels: tuple[str, ...]
    """The panels to draw, in the paper's order."""
    skipped: tuple[Absence, ...]
    """Panels that cannot be drawn, with the reasons."""
    folder: Path

    def draw(self) -> Iterator[Path]:
        """Draw panel by panel and yield each file once it is written; the page of captions comes last."""
        captions = _read_captions(self.folder / CAPTIONS)
        # One thread: the last bits of a network's outputs depend on their number.
        with torch_threads(1), canvas.styled():
            for panel in self.panels:
                drawn = {}
                for picture in self.figures.draw(panel, self.inputs):
                    drawn[picture.name] = picture.caption.strip()
                    yield from canvas.saved(picture.figure, self.folder, picture.name)
                for name in [name for name in captions if _belongs(name, panel) and name not in drawn]:
                    captions.pop(name)
                    _remove(self.folder, name)
                captions.update(drawn)
                write_atomically(self.folder / CAPTIONS, self._page(captions))
        if self.panels:
            yield self.folder / CAPTIONS

    def _page(self, captions: Mapping[str, str]) -> str:
        """The page of all captions whose pictures exist, in the paper's order."""
        place = {name: i for i, panel in enumerate(self.figures.panels) for name in captions if _belongs(name, panel)}
        names = sorted(
            (n for n in captions if (self.folder / f"{n}.png").is_file()), key=lambda n: (place.get(n, 99), n)
        )
        title = f"# {self.figures.title}\n\n{self.figures.paper}. Drawn by `bench figures {self.figures.name}`.\n"
        return title + "".join(f"\n## {name}\n\n![{name}]({name}.png)\n\n{captions[name]}\n" for name in names)


def figure_request(
    name: str,
    *,
    panels: Sequence[str] = (),
    run_name: str = "",
    seed: int = 0,
    data_dir: Path = Path("data"),
    results: Path = Path("results"),
) -> FigureRequest:
    """Resolve a request. `panels` are numbers of figures, with or without letters; all by default.

    Raises `OodbenchError` if a panel or run that was named is not available; panels that were not named and cannot be
    drawn are in `skipped`.
    """
    figures: Figures = registry.get("figure", name)()
    chosen = _chosen(figures, panels)
    run = read_stored_run(run_dir(results, run_name)) if run_name else _find_run(figures, results)
    cache = cache_of(run.path, results) if run else results / "cache"
    context = JobContext(Store(cache), Library(data_dir, results / "cache" / "data"), torch.device("cpu"))
    inputs = RunFigureInputs(context, seed, run)
    reasons = {
        panel: _missing(figures, panel, inputs) for panel in dict.fromkeys(p for ps in chosen.values() for p in ps)
    }
    required = [chosen[item] for item in panels] + ([_of_run(figures, reasons)] if run_name else [])
    for group in required:
        if group and all(reasons[panel] for panel in group):
            raise UserError(f"Figure {group[0]} cannot be drawn: {reasons[group[0]]}")
    skipped = tuple(Absence(f"figure {panel}", reason) for panel, reason in reasons.items() if reason)
    return FigureRequest(
        figures, inputs, tuple(p for p in reasons if not reasons[p]), skipped, results / "figures" / name
    )


def _chosen(figures: Figures, items: Sequence[str]) -> dict[str, list[str]]:
    """Requested item -> its panels: '3' stands for both '3ab' and '3cd'."""
    found = {}
    for item in items or figures.panels:
        found[item] = [
            panel for panel in figures.panels if panel == item or re.fullmatch(f"{re.escape(item)}[a-z]+", panel)
        ]
        if not found[item]:
            raise UserError(f"{figures.name} has no figure '{item}'. It has {', '.join(figures.panels)}.")
    return found


def _find_run(figures: Figures, results: Path) -> StoredRun | None:
    """The first run of one of the suites that the figures can be drawn from."""
    runs = [read_stored_run(path.parent) for path in sorted((results / "runs").glob("*/run.json"))]
    for suite in figures.suites:
        for run in runs:
            name = (run.info.get("suite") or {}).get("name")
            if name == suite and any(record.status == OK for record in run.records):
                return run
    return None


def _missing(figures: Figures, panel: str, inputs: RunFigureInputs) -> str:
    if panel in figures.from_run and inputs.run_read is None:
        suites = " or ".join(figures.suites)
        return f"it needs a run, and there is none of suite {suites}. Run 'bench run --suite NAME' or use --from."
    try:
        return figures.missing(panel, inputs) or ""
    except OodbenchError as error:
        return str(error)


def _of_run(figures: Figures, reasons: Mapping[str, str]) -> list[str]:
    return [panel for panel in reasons if panel in figures.from_run]


def _belongs(name: str, panel: str) -> bool:
    return name == f"figure{panel}" or name.startswith(f"figure{panel}_")


def _read_captions(page: Path) -> dict[str, str]:
    """Picture -> its caption, as written by an earlier command."""
    if not page.is_file():
        return {}
    text = page.read_text(encoding="utf-8", errors="replace")
    parts = re.split(r"^## (\S+)\n\n!\[.*\]\(.*\)\n\n", text, flags=re.MULTILINE)
    return {name: caption.strip() for name, caption in zip(parts[1::2], parts[2::2], strict=True)}


def _remove(folder: Path, name: str) -> None:
    """Delete a picture that the panel no longer has."""
    for kind in ("png", "svg"):
        (folder / f"{name}.{kind}").unlink(missing_ok=True)
