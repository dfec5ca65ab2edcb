"""Draws the figures of a paper: which plates, from which run, into which files, with their captions in one page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from oodbench.benchmark.data.library import Library
from oodbench.benchmark.errors import OodbenchError, UserError
from oodbench.benchmark.papers.figure_inputs import RunFigureInputs
from oodbench.benchmark.plan.plan import Absence
from oodbench.benchmark.plugins.figures import Figures
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.records.paths import cache_of, run_dir
from oodbench.benchmark.records.record import OK
from oodbench.benchmark.records.run import Run, read_run
from oodbench.benchmark.stages.context import Bench
from oodbench.benchmark.store.atomic import write_atomically
from oodbench.benchmark.store.store import Store
from oodbench.benchmark.views import plot_style as canvas

CAPTIONS = "captions.md"


@dataclass(frozen=True)
class Order:
    """Figures about to be drawn: what can be had and what cannot is known, nothing is done."""

    figures: Figures
    studio: RunFigureInputs
    plates: tuple[str, ...]
    skipped: tuple[Absence, ...]
    folder: Path

    def fill(self) -> Iterator[Path]:
        """Draw plate by plate and yield every file as soon as it is written; the page of captions comes last."""
        captions = _read_captions(self.folder / CAPTIONS)
        with _one_thread(), canvas.styled():
            for plate in self.plates:
                drawn = {}
                for picture in self.figures.draw(plate, self.studio):
                    drawn[picture.name] = picture.caption.strip()
                    yield from canvas.saved(picture.figure, self.folder, picture.name)
                for name in [name for name in captions if _belongs(name, plate) and name not in drawn]:
                    captions.pop(name)
                    _remove(self.folder, name)
                captions.update(drawn)
                write_atomically(self.folder / CAPTIONS, self._page(captions))
        if self.plates:
            yield self.folder / CAPTIONS

    def _page(self, captions: Mapping[str, str]) -> str:
        """All captions whose pictures are there, in the paper's order."""
        place = {name: i for i, plate in enumerate(self.figures.plates) for name in captions if _belongs(name, plate)}
        names = sorted(
            (n for n in captions if (self.folder / f"{n}.png").is_file()), key=lambda n: (place.get(n, 99), n)
        )
        title = f"# {self.figures.title}\n\n{self.figures.paper}. Made by `bench figures {self.figures.name}`.\n"
        return title + "".join(f"\n## {name}\n\n![{name}]({name}.png)\n\n{captions[name]}\n" for name in names)


def order(
    name: str,
    *,
    plates: Sequence[str] = (),
    run_name: str = "",
    seed: int = 0,
    data_dir: Path = Path("data"),
    results: Path = Path("results"),
    say: Callable[[str], None] = print,
) -> Order:
    """Resolve what is asked for. `plates`: numbers of figures, with or without letters; all by default.

    Raises `OodbenchError` for what was named and cannot be had; what was not named and cannot be had is in `skipped`.
    """
    figures: Figures = registry.get("figure", name)()
    chosen = _chosen(figures, plates)
    run = read_run(run_dir(results, run_name)) if run_name else _found(figures, results)
    cache = cache_of(run.path, results) if run else results / "cache"
    bench = Bench(Store(cache, say), Library(data_dir, results / "cache" / "data"), torch.device("cpu"))
    studio = RunFigureInputs(bench, seed, run)
    reasons = {
        plate: _missing(figures, plate, studio) for plate in dict.fromkeys(p for ps in chosen.values() for p in ps)
    }
    asked = [chosen[item] for item in plates] + ([_of_run(figures, reasons)] if run_name else [])
    for group in asked:
        if group and all(reasons[plate] for plate in group):
            raise UserError(f"Figure {group[0]} cannot be drawn: {reasons[group[0]]}")
    skipped = tuple(Absence(f"figure {plate}", reason) for plate, reason in reasons.items() if reason)
    return Order(figures, studio, tuple(p for p in reasons if not reasons[p]), skipped, results / "figures" / name)


def _chosen(figures: Figures, items: Sequence[str]) -> dict[str, list[str]]:
    """What was asked for -> its plates: '3' stands for '3ab' and '3cd' alike."""
    found = {}
    for item in items or figures.plates:
        found[item] = [
            plate for plate in figures.plates if plate == item or re.fullmatch(f"{re.escape(item)}[a-z]+", plate)
        ]
        if not found[item]:
            raise UserError(f"There is no figure '{item}' of {figures.name}. It has {', '.join(figures.plates)}.")
    return found


def _found(figures: Figures, results: Path) -> Run | None:
    """The first run of one of the suites that serve."""
    runs = [read_run(path.parent) for path in sorted((results / "runs").glob("*/run.json"))]
    for suite in figures.suites:
        for run in runs:
            of = (run.info.get("suite") or {}).get("name")
            if of == suite and any(record.status == OK for record in run.records):
                return run
    return None


def _missing(figures: Figures, plate: str, studio: RunFigureInputs) -> str:
    if plate in figures.from_run and studio.run_read is None:
        what = f"it needs a run, and there is none of suite {' or '.join(figures.suites)}"
        return f"{what}. Run 'bench run --suite NAME', or name one with --from."
    try:
        return figures.missing(plate, studio) or ""
    except OodbenchError as error:
        return str(error)


def _of_run(figures: Figures, reasons: Mapping[str, str]) -> list[str]:
    return [plate for plate in reasons if plate in figures.from_run]


def _belongs(name: str, plate: str) -> bool:
    return name == f"figure{plate}" or name.startswith(f"figure{plate}_")


def _read_captions(page: Path) -> dict[str, str]:
    """The captions of an earlier command, by picture."""
    if not page.is_file():
        return {}
    text = page.read_text(encoding="utf-8", errors="replace")
    parts = re.split(r"^## (\S+)\n\n!\[.*\]\(.*\)\n\n", text, flags=re.MULTILINE)
    return {name: caption.strip() for name, caption in zip(parts[1::2], parts[2::2], strict=True)}


def _remove(folder: Path, name: str) -> None:
    """Take away a picture of a plate that is now drawn from something else."""
    for kind in ("png", "svg"):
        (folder / f"{name}.{kind}").unlink(missing_ok=True)


@contextmanager
def _one_thread() -> Iterator[None]:
    """The last bits of a network's outputs change with the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
