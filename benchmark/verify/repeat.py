"""A run done again from nothing, and what came out beside what the run says.

The repetition has a store of its own, `runs/NAME-again/cache`: in the run's store everything would be found, and
nothing tried. On the same machine type, with the same threads and libraries, a cell has reproduced if its scores and
metrics are the same bytes. Elsewhere, arithmetic rounds otherwise, and what follows depends on the weights:

- The same weights: scores move in the last bits, which exchanges images whose scores all but tie. Every metric may be
  off by `SWAPPED` images of the smaller set, and by `LAST_BITS` at least.
- Weights trained anew: rounding differs from the first step on, and after some hundred steps the network is another
  draw, as with another seed. AUROC and ID accuracy may be off by `RETRAINED`; what depends on one threshold spreads
  more, and is told without a judgement. Such a tolerance finds other data, other settings and broken installations;
  it cannot find a small change of a method.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from oodbench.benchmark.api import Prepared, prepare
from oodbench.benchmark.errors import OodbenchError, UserError
from oodbench.benchmark.plan.suite import suite_path
from oodbench.benchmark.plan.weights_file import IMPORTED
from oodbench.benchmark.records.cell_names import cell_name
from oodbench.benchmark.records.paths import run_dir
from oodbench.benchmark.records.record import OK, Record
from oodbench.benchmark.records.run import Run, read_run
from oodbench.benchmark.store.atomic import slug, to_json, write_atomically

logger = logging.getLogger(__name__)

SWAPPED, LAST_BITS, RETRAINED = 2, 0.001, 0.1

JUDGED = ("auroc", "id_accuracy")
"""What is held against `RETRAINED`."""

MACHINE = ("processor", "device", "device_name", "threads", "torch", "numpy")
"""What must be the same for the same bytes."""

EXACT, WITHIN, DIFFERENT, NOTHING = "exactly", "within tolerance", "not reproduced", "no numbers to compare"


@dataclass(frozen=True)
class CellOutcome:
    """Whether one cell came out again."""

    cell: str
    verdict: str
    told: str = ""
    differences: Mapping[str, float] | None = None
    """Repeated minus recorded, of every metric that differs."""


@dataclass(frozen=True)
class RepetitionOutcome:
    """Whether a run came out again, cell by cell."""

    original: Path
    repeated: Path
    elsewhere: tuple[str, ...]
    """How machine and libraries differ from the run's; empty if they do not."""
    cells: tuple[CellOutcome, ...]

    def lines(self) -> Iterator[str]:
        """The outcome in words."""
        for cell in self.cells:
            yield f"{cell.cell}: {cell.verdict}{f': {cell.told}' if cell.told else ''}"
        yield ""
        if self.elsewhere:
            yield (
                f"Elsewhere than the run: {'; '.join(self.elsewhere)}. So a cell counts as reproduced if its metrics "
                f"are within {SWAPPED} images or {LAST_BITS} where the weights are the same, and AUROC and ID accuracy "
                f"within {RETRAINED} where they were trained anew: rounding differs, and training makes another draw "
                "of it."
            )
        else:
            yield "The same machine type, threads and libraries as the run: only the same bytes count as reproduced."
        count = {verdict: sum(cell.verdict == verdict for cell in self.cells) for verdict in VERDICTS}
        told = ", ".join(f"{n} {verdict}" for verdict, n in count.items() if n)
        yield f"{len(self.cells)} cells of {self.original}: {told}. The repetition: {self.repeated}"


VERDICTS = (EXACT, WITHIN, DIFFERENT, NOTHING)


@dataclass(frozen=True)
class Repetition:
    """A repetition about to start."""

    original: Run
    run_dir: Path
    where: Mapping[str, Any]
    """Options that replace the run's: on which device, with how many threads, where data lie."""

    def commands(self) -> Iterator[Prepared]:
        """The run's commands, one after the other; each is planned when the one before it is done."""
        about = {"of": str(self.original.path.resolve()), "written": self.original.info.get("written")}
        for place, options in enumerate(_commands(self.original)):
            suite = self._suite(options.pop("suite"), options.pop("suite_toml", None))
            given = {**options, "suite": suite, **self.where, "add": place > 0}
            results, name = self.run_dir.parent.parent, self.run_dir.name
            prepared = prepare(**given, results=results, name=name, own_cache=True)
            yield replace(prepared, asked={**prepared.asked, "again": about})

    def _suite(self, name: str, text: str | None) -> str:
        """The run's suite: the one of its name if it is still the same, else a file of what it was."""
        try:
            now = suite_path(name).read_text(encoding="utf-8")
        except (OodbenchError, OSError):
            now = None
        if text is None or now == text:
            return name
        path = self.run_dir / "suite" / f"{Path(name).stem}.toml"
        write_atomically(path, text)
        logger.warning(f"The suite '{name}' is not what it was: the run's own text is used, '{path}'.")
        return str(path)

    def compare(self) -> RepetitionOutcome:
        """Hold the repetition against the run; the outcome is also written to its folder, `again.json`."""
        repeated = read_run(self.run_dir)
        by_name = {cell_name(record): record for record in repeated.records}
        pairs = [(record, by_name.get(cell_name(record))) for record in self.original.records]
        elsewhere = {
            told for ours, theirs in pairs if theirs for told in _elsewhere(ours, theirs, self.original, repeated)
        }
        cells = tuple(_outcome(ours, theirs, self.original, repeated) for ours, theirs in pairs)
        outcome = RepetitionOutcome(self.original.path, self.run_dir, tuple(sorted(elsewhere)), cells)
        content = {**asdict(outcome), "original": str(outcome.original), "repeated": str(outcome.repeated)}
        write_atomically(self.run_dir / "again.json", to_json(content))
        return outcome


def prepare_repetition(
    source: str | Path,
    *,
    results: str | Path = "",
    name: str = "",
    **where: Any,
) -> Repetition:
    """Get ready to repeat a run, given by its `run.json`, its folder or its name.

    The repetition lies in `results` (the run's own results folder by default) under `name` (NAME-again by default); one
    that was stopped goes on. `where`: `device`, `threads`, `data_dir`, `plugins`. Raises `UserError`.
    """
    given = Path(source)
    folder = given.parent if given.name == "run.json" else run_dir(Path(results or "results"), str(source))
    original = read_run(folder)
    home = folder.resolve().parent
    root = Path(results) if results else (home.parent if home.name == "runs" else Path("results"))
    target = root / "runs" / slug(name or f"{folder.resolve().name}-again")
    if not any(record.status == OK for record in original.records):
        raise UserError(f"The run '{folder}' has no cell with numbers, so there is nothing to repeat.")
    if target.resolve() == folder.resolve():
        raise UserError(f"'{target}' is the run itself. Choose another --name for its repetition.")
    if (target / "run.json").is_file() and read_run(target).info.get("again", {}).get("of") != str(folder.resolve()):
        raise UserError(f"'{target}' is there already and does not repeat '{folder}'. Choose another --name.")
    return Repetition(original, target, where)


def _commands(run: Run) -> list[dict[str, Any]]:
    """The options of the commands that made a run; of one by an older version, as far as it tells them."""
    if "commands" in run.info:
        return [dict(options) for options in run.info["commands"]]
    if "asked" not in run.info:
        raise UserError(f"'{run.path / 'run.json'}' does not say how the run was made, so it cannot be repeated.")
    asked: dict[str, Any] = dict(run.info["asked"])
    if "all" in asked.get("detectors", ()):
        imported = {record.label for record in run.records if record.recipe == IMPORTED}
        labels = run.info.get("detectors", asked["detectors"])
        asked["detectors"] = [label.partition("@")[0] if label in imported else label for label in labels]
    trained = {str(record.training.get("precision", "")) for record in run.records if record.status == OK}
    asked["precision"] = asked.get("precision") or (trained.pop() if len(trained) == 1 else "")
    return [{**asked, **{name: run.info[name] for name in ("device", "threads") if name in run.info}}]


def _outcome(ours: Record, theirs: Record | None, original: Run, repeated: Run) -> CellOutcome:
    name = cell_name(ours)
    if ours.status != OK:
        return CellOutcome(name, NOTHING, f"{ours.status} in the run")
    if theirs is None:
        return CellOutcome(name, DIFFERENT, "the repetition has no such cell")
    if theirs.status != OK:
        return CellOutcome(name, DIFFERENT, f"{theirs.status}: {theirs.reason}")
    changed = "; ".join(_changed(ours, theirs))
    told = f" (since then: {changed})" if changed else ""
    values, found = _values(ours), _values(theirs)
    off = {metric: found[metric] - value for metric, value in values.items() if found[metric] != value}
    if not off and _same_scores(ours, theirs):
        return CellOutcome(name, EXACT, told.strip(" ()"))
    if _elsewhere(ours, theirs, original, repeated) and not _outside_tolerance(ours, theirs, off):
        return CellOutcome(name, WITHIN, _largest(values, off) + told, off)
    return CellOutcome(name, DIFFERENT, _largest(values, off) + told, off)


def _values(record: Record) -> dict[str, float]:
    return {"id_accuracy": record.id_accuracy or 0.0, "tpr": record.tpr or 0.0, **record.metrics}


def _outside_tolerance(ours: Record, theirs: Record, off: Mapping[str, float]) -> bool:
    """Whether some difference is more than other rounding explains."""
    smaller = min(n for n in (ours.n_id, ours.n_ood) if n) if ours.n_id and ours.n_ood else 1
    if (ours.n_id, ours.n_ood) != (theirs.n_id, theirs.n_ood):
        return True
    weights = [_sha256(record, record.artifacts.get("checkpoint", "")) for record in (ours, theirs)]
    if weights[0] and weights[0] == weights[1]:
        return any(abs(value) > max(LAST_BITS, SWAPPED / smaller) for value in off.values())
    return any(abs(off.get(metric, 0.0)) > RETRAINED for metric in JUDGED)


def _sha256(record: Record, path: str) -> str:
    made = record.provenance.get("artifacts", ())
    return next((str(one["sha256"]) for one in made if one["path"] == path), "")


def _same_scores(ours: Record, theirs: Record) -> bool:
    """Whether the stored scores are the same bytes, as far as both records tell."""
    pairs = [
        tuple(_sha256(record, record.artifacts.get(which, "")) for record in (ours, theirs))
        for which in ("id_scores", "ood_scores")
    ]
    return all(one == other or not (one and other) for one, other in pairs)


def _largest(values: Mapping[str, float], off: Mapping[str, float]) -> str:
    if not off:
        return "the metrics are equal, the scores are not the same bytes"
    worst = max(off, key=lambda metric: abs(off[metric]))
    shown = dict.fromkeys([*(metric for metric in JUDGED if metric in off), worst])
    return ", ".join(
        f"{metric} {values[metric] + off[metric]:.6f} in place of {values[metric]:.6f}" for metric in shown
    )


def _elsewhere(ours: Record, theirs: Record, original: Run, repeated: Run) -> list[str]:
    """In what the machines and libraries differ that two records were made with."""
    before, now = _machine(ours, original), _machine(theirs, repeated)
    return [
        f"{name} {now[name]} in place of {before[name]}"
        for name in MACHINE
        if name in before and name in now and before[name] != now[name]
    ]


def _machine(record: Record, run: Run) -> dict[str, Any]:
    return {**run.info.get("packages", {}), **run.info, **record.provenance.get("made", {})}


def _changed(ours: Record, theirs: Record) -> Iterator[str]:
    """What of code, settings and data is not as it was; nothing where the keys are equal."""
    if ours.key == theirs.key:
        return
    told = [_flat(record.provenance.get("resolved", {})) for record in (ours, theirs)]
    for record, flat in zip((ours, theirs), told, strict=True):
        for used in record.provenance.get("data", ()):
            flat[f"data {used['set']} ({used['part']})"] = used["sha256"][:12]
    names = [name for name in told[0] if told[0][name] != told[1].get(name)] if told[0] else []
    yield from (f"{name} {told[1].get(name)} in place of {told[0][name]}" for name in names[:3])
    if not names:
        yield "code, settings or data have changed: the key is another"


def _flat(value: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, item in value.items():
        flat |= _flat(item, f"{above}{name} ") if isinstance(item, Mapping) else {f"{above}{name}": item}
    return flat
