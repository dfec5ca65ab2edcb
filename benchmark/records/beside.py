"""Joins the records of several runs, to show and compare them side by side.

A column is a pair of an ID and an OOD set that all of the runs have on the same images: by checksum, part, number and
groups, whatever the sets are called; of pictures that networks got at different sizes, by what is stored of them. Other
pairs are left out, with the reason. Rows are distinguished as in a run (`records/rows.py`); cells that several runs
have, with the same numbers, are shown once.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.records.given_sets import plain_name
from oodbench.benchmark.records.paths import cache_of
from oodbench.benchmark.records.record import WARNING, Record
from oodbench.benchmark.records.rows import SIDES, older_images, shown_images, tell_apart, with_names
from oodbench.benchmark.records.run import StoredRun, read_as_written, read_stored_run
from oodbench.benchmark.store.atomic import unique_slug
from oodbench.benchmark.store.store import digest
from oodbench.benchmark.store.user_path import telling_ends

LONGEST = 120
"""Characters of the name of a folder for several runs; a longer one is shortened, with a hash."""

REASONS = 5
"""Number of reasons that an error names."""

LISTS = ("skipped", "unavailable")
"""Lists in `run.json` whose items have a name, `what` or `name`, and a reason."""


@dataclass(frozen=True)
class RecordOfRun(Record):
    """A record beside those of other runs."""

    run: str = ""
    """The name of its run, which distinguishes it from the others."""
    store: str = ""
    """The store that has its artifacts."""


def store_of(record: Record, store: Path) -> Path:
    """The store that has a record's artifacts: that of its run, if several are shown, or else `store`."""
    return Path(record.store) if isinstance(record, RecordOfRun) else store


def network_of(record: Record) -> tuple[str, ...]:
    """What is equal for two cells that one network made: its file, and its bytes where several runs are shown.

    Another run may have trained the same network on another machine, with other rounding.
    """
    path = record.artifacts.get("checkpoint", "")
    if not isinstance(record, RecordOfRun):
        return (path,)
    known = record.provenance.get("artifacts", ())
    return path, next((str(one["sha256"]) for one in known if one.get("path") == path), record.run)


@dataclass
class _Pair:
    """An ID set with an OOD set, as a run has it."""

    info: dict[str, Any]
    """As in `run.json`, with at least `id_set` and `ood_set`."""
    images: Mapping[str, Mapping[str, Any]]
    """'id' and 'ood' -> `part`, `images`, `checksum`, `groups`; of pictures at their own size, `content` as well."""

    @property
    def names(self) -> tuple[str, str]:
        """The names of the ID and of the OOD set in tables."""
        return plain_name(str(self.info["id_set"])), plain_name(str(self.info["ood_set"]))

    def is_of(self, record: Record) -> bool:
        """Whether a record of the same run is of this pair."""
        known = _images_of(record)
        return self.names == (plain_name(record.id_set), plain_name(record.ood_set)) and all(
            not known.get(side) or _same(known[side], self.images.get(side, {})) for side in SIDES
        )

    def has_images_of(self, other: _Pair) -> bool:
        """Whether a pair of another run has the same images in the same order."""
        return all(
            side in self.images and side in other.images and _same(self.images[side], other.images[side])
            for side in SIDES
        )


@dataclass
class _Run:
    """A run as its folder has it."""

    name: str
    folder: Path
    cache: Path
    info: dict[str, Any]
    records: dict[str, Record]
    pairs: list[_Pair] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.pairs = [_Pair(dict(pair), _with_content(pair)) for pair in self.info.get("pairs", ())]
        for record in self.records.values():
            place = {"id_set": record.id_set, "ood_set": record.ood_set, "group": record.group}
            if not any(pair.is_of(record) for pair in self.pairs):
                self.pairs.append(_Pair({**place, "outlier_source": record.outlier_source}, _images_of(record)))


def _with_content(pair: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    content = pair.get("content") or {}
    of_side = {side: {**known} for side, known in (pair.get("scored") or {}).items()}
    return {
        side: {**known, **({"content": content[side]} if side in content else {})} for side, known in of_side.items()
    }


def _images_of(record: Record) -> dict[str, Mapping[str, Any]]:
    return {**(record.origin.get("images") or dict(older_images(record)))}


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two sets have the same images in the same order: by what is stored of them, if both say so."""
    names = ["part", "images", "groups", "content" if "content" in one and "content" in other else "checksum"]
    return all((one.get(name) or "") == (other.get(name) or "") for name in names)


# What all runs have


@dataclass
class _Common:
    """The pairs that all runs have, and why others are left out."""

    pairs: list[dict[str, Any]] = field(default_factory=list)
    """As the first run has them."""
    places: dict[tuple[int, int], tuple[dict[str, Any], Mapping[str, Any]]] = field(default_factory=dict)
    """Number of a run and of one of its pairs -> the pair and the images as the first run has them."""
    left_out: dict[str, str] = field(default_factory=dict)
    """Pair -> why it is left out."""
    notes: list[str] = field(default_factory=list)
    """Sentences on pairs that the runs have in unlike groups, and on cells that are shown once."""


def _common(runs: Sequence[_Run]) -> _Common:
    found = _Common()
    for number, pair in enumerate(runs[0].pairs):
        partners = {0: number}
        for i, run in enumerate(runs[1:], 1):
            if (place := _partner(pair, i, run, found.places)) is not None:
                partners[i] = place
        if len(partners) < len(runs):
            found.left_out[" against ".join(pair.names)] = _why(pair, runs)
            continue
        info = dict(pair.info)
        for i, place in partners.items():
            own = runs[i].pairs[place].info
            found.places[i, place] = info, _scored(pair)
            info["outlier_source"] = bool(info.get("outlier_source")) or bool(own.get("outlier_source"))
            if own.get("group", "") != info.get("group", ""):
                groups = [one.get("group") or "neither near nor far" for one in (info, own)]
                where = [f"{groups[0]} in {runs[0].name} and here", f"{groups[1]} in {runs[i].name}"]
                found.notes.append(f"{WARNING}{' against '.join(pair.names)} is {', '.join(where)}.")
        found.pairs.append(info)
    for i, run in enumerate(runs[1:], 1):
        for place, pair in enumerate(run.pairs):
            if (i, place) not in found.places:
                found.left_out.setdefault(" against ".join(pair.names), _why(pair, runs))
    return found


def _partner(pair: _Pair, number: int, run: _Run, taken: Container[tuple[int, int]]) -> int | None:
    """The number of a run's pair with the same images: of the same names, if there is one."""
    alike = [i for i, other in enumerate(run.pairs) if (number, i) not in taken and pair.has_images_of(other)]
    return next((i for i in alike if run.pairs[i].names == pair.names), alike[0] if alike else None)


def _scored(pair: _Pair) -> dict[str, dict[str, Any]]:
    return {
        side: {name: value for name, value in known.items() if name != "content"} for side, known in pair.images.items()
    }


def _why(pair: _Pair, runs: Sequence[_Run]) -> str:
    """Why a pair is left out, as a clause."""
    having = {run.name: other for run in runs for other in run.pairs if other.names == pair.names}
    if len(having) < len(runs):
        return f"only in {' and '.join(having)}"
    for side in SIDES:
        if lacking := [name for name, other in having.items() if side not in other.images]:
            return f"{' and '.join(lacking)} did not record its images"
        known = [other.images[side] for other in having.values()]
        if not all(_same(known[0], other) for other in known):
            shown = shown_images(
                [
                    {
                        "part": one.get("part", ""),
                        "images": one.get("images", 0),
                        "checksum": one.get("content") or one.get("checksum", ""),
                        "groups": one.get("groups", ""),
                    }
                    for one in known
                ]
            )
            texts = ", ".join(f"{name}: {text}" for name, text in zip(having, shown, strict=True))
            return f"the {side.upper()} images differ; {texts}"
    return "its images are those of another pair"


# Joining


def runs_beside(folders: Sequence[Path], results: Path) -> StoredRun:
    """Several runs as one, whose folder is one beside the folder of runs and need not exist (`beside_dir`).

    Args:
        folders: The folders of the runs; the first one names and groups the sets.
        results: The results folder, for the stores of runs that are in no results folder.

    Raises:
        UserError: Fewer than two different runs, one that cannot be read, or no pair of sets that all have on the same
            images.
    """
    unlike = list({folder.resolve(): folder for folder in folders}.values())
    if len(unlike) < len(folders) or len(unlike) < 2:
        raise UserError(f"Name two runs or more, each once; got {', '.join(str(folder) for folder in folders)}.")
    read = [read_as_written(folder) for folder in unlike]
    given = [str(info.get("name") or folder.name) for folder, (info, _) in zip(unlike, read, strict=True)]
    names = _run_names(unlike, given)
    runs = [
        _Run(name, folder, cache_of(folder, results), info, records)
        for name, folder, (info, records) in zip(names, unlike, read, strict=True)
    ]
    common = _common(runs)
    if not common.pairs:
        reasons = [f"{what}: {why}" for what, why in common.left_out.items()]
        more = f"; and {len(reasons) - REASONS} more" if len(reasons) > REASONS else ""
        raise UserError(
            f"{' and '.join(names)} have no pair of sets with the same images, so they cannot be shown side by side: "
            f"{'; '.join(reasons[:REASONS]) or 'they have no cells'}{more}."
        )
    records = [record for number, run in enumerate(runs) for record in _records(number, run, common)]
    labelled, pairs = tell_apart(records, common.pairs, [record.run for record in records])
    parts = tuple(replace(read_stored_run(run.folder), info={**run.info, "name": run.name}) for run in runs)
    missing: dict[str, int] = {}
    for part in parts:
        for line, count in part.missing.items():
            missing[line] = missing.get(line, 0) + count
    if twice := len(records) - len(labelled):
        common.notes.append(
            f"{twice:,} cell{'s' * (twice > 1)} that several runs have, with the same numbers, are shown once."
        )
    return StoredRun(beside_dir(unlike, names, results), _info(runs, common, pairs), labelled, missing, parts)


def _run_names(folders: Sequence[Path], given: Sequence[str]) -> list[str]:
    """The runs' names; with the ends of their folders' paths where names are the same."""
    paths = [folder.resolve() for folder in folders]
    ends = telling_ends([p.parent.parent / p.name if p.parent.name == "runs" else p for p in paths])
    return [name if given.count(name) == 1 else end for name, end in zip(given, ends, strict=True)]


def beside_dir(folders: Sequence[Path], names: Sequence[str], results: Path) -> Path:
    """Where pages on several runs are written: RESULTS/compare/NAME+NAME, in the results folder of the first run.

    With runs of other results folders, or very long names, a hash follows.
    """
    paths = [folder.resolve() for folder in folders]
    root = paths[0].parent.parent if paths[0].parent.name == "runs" else results
    root = results if results.resolve() == root else root  # as the user wrote it
    name = "+".join(map(unique_slug, names))
    if len(name) > LONGEST or any(path.parent != (root / "runs").resolve() for path in paths):
        name = f"{name[:LONGEST]}-{digest([str(path) for path in paths])[:8]}"
    return root / "compare" / name


def _records(number: int, run: _Run, common: _Common) -> Iterator[RecordOfRun]:
    """A run's records of common pairs, with the first run's names, group and images."""
    for record in run.records.values():
        place = next(i for i, pair in enumerate(run.pairs) if pair.is_of(record))
        if (number, place) in common.places:
            info, images = common.places[number, place]
            values: dict[str, Any] = {one.name: getattr(record, one.name) for one in fields(Record)}
            values["group"] = info.get("group", record.group)
            if record.origin:
                values["origin"] = {**record.origin, "images": images}
            shown = RecordOfRun(**values, run=run.name, store=str(run.cache))
            yield with_names(shown, {name: str(info[name]) for name in ("id_set", "ood_set")})


def _info(runs: Sequence[_Run], common: _Common, pairs: list[dict[str, Any]]) -> dict[str, Any]:
    """What tables show of `run.json`, of all runs; what only some of them say, with their names."""
    suites = [run.info.get("suite") or {} for run in runs]
    notes = [note for run in runs for note in run.info.get("notes", ())]
    beside = [*common.notes, *(f"{what} is left out ({why})." for what, why in common.left_out.items())]
    found: dict[str, Any] = {
        "name": " + ".join(run.name for run in runs),
        "suite": {
            key: "; ".join(dict.fromkeys(str(s[key]) for s in suites if s.get(key))) for key in ("name", "title")
        },
        "pairs": pairs,
        "seeds": sorted({seed for run in runs for seed in run.info.get("seeds", ())}),
        "beside": beside,
        "notes": [
            *beside,
            *_attributed(notes, [run.name for run in runs for _ in run.info.get("notes", ())], len(runs)),
        ],
        "passes": " ".join(f"{run.name}: {run.info['passes']}" for run in runs if run.info.get("passes")),
    }
    for name in LISTS:
        found[name] = [{"what": what, "name": what, "reason": reason} for what, reason in _of_runs(runs, name)]
    return found


def _attributed(texts: Sequence[str], owners: Sequence[str], count: int) -> Iterator[str]:
    """Each text once; with the names of the runs that say so, where not all do."""
    for text in dict.fromkeys(texts):
        runs = list(dict.fromkeys(run for one, run in zip(texts, owners, strict=True) if one == text))
        yield text if len(runs) == count else f"{text.rstrip('.')} (run {' and '.join(runs)})."


def _of_runs(runs: Sequence[_Run], name: str) -> Iterable[tuple[str, str]]:
    """The items of a list in `run.json`, each with its reason; with the names of the runs, where not all have it."""
    items = [
        (str(item.get("what") or item.get("name", "")), str(item.get("reason", "")), run.name)
        for run in runs
        for item in run.info.get(name, ())
    ]
    for what, reason in dict.fromkeys((what, reason) for what, reason, _ in items):
        owners = [run for one, why, run in items if (one, why) == (what, reason)]
        yield (what if len(set(owners)) == len(runs) else f"{what}, run {' and '.join(owners)}"), reason
