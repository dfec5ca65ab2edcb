"""`bench run --add`: whatever the commands were, a mean joins cells that differ in the seed and in nothing else."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from oodbench.benchmark import Batch, Dataset, Detector, ImageSet
from oodbench.benchmark.metrics.names import METRICS
from oodbench.benchmark.plan.plan import Cell, Plan
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.registry import PluginEntry, registry
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.benchmark.records.best import read_best
from oodbench.benchmark.records.record import OK, QUICK_LOOK, Record
from oodbench.benchmark.records.rows import own_name, tell_apart, unlike
from oodbench.benchmark.records.run import StoredRun, read_stored_run
from oodbench.benchmark.runner.run_info import collect_info, merge_info
from oodbench.benchmark.store.store import digest
from oodbench.benchmark.views.run import public
from oodbench.benchmark.views.summary import Summary, summary_of
from oodbench.benchmark.views.tables.files import write_tables
from oodbench.benchmark.views.tables.markdown import table_markdown
from tests.data.image_sets import smooth
from tests.support import TINY_BACKBONE, bench, csv_rows, prepare_suite, run_suite, tables_of, write_suite

Register = Callable[[str, type[Plugin]], None]

SHAPE = (3, 32, 32)
MATRIX = """
[[id]]
set = "add_id"
tuning = "add_tuning"
ood = [{ set = "add_one", group = "near" }, { set = "add_two", group = "near" }]
"""
COUNTS = {"train": 80, "test": 60}
WIDER = "small_cnn[hidden=4,width=3]"
SUITES = {"one": "epochs = 1", "two": "epochs = 1\nbatch_size = 32"}
OPTIONS: dict[str, tuple[Any, ...]] = {
    "suite": tuple(SUITES),
    "epochs": (0, 3),
    "limit_train": (0, 40),
    "backbone": ("", WIDER),
    "threads": (1, 2),
    "protocol": ("defaults", "val_ood", "leave_one_out"),
    "checkpoint": ("", "", "a", "b"),
    "trained": (0, 1),
    "tested": (0, 1),
    "ood": (0, 1),
    "grouped": (0, 1),
    "code": ("1", "2"),
}
"""Everything that two commands may have unlike: options, and what they find in files under the same names."""

DRAWS, POOL = 200, 30


class Images(Dataset):
    """Images that change under the same name."""

    classes = ("a", "b")
    seed: ClassVar[Mapping[str, int]]
    groups: ClassVar[int] = 0

    def load(self, split: str, data_dir: Path) -> ImageSet:
        images = smooth(COUNTS[split], self.seed[split], SHAPE)
        groups = np.arange(len(images)) // self.groups if self.groups else None
        return ImageSet(images, np.arange(len(images)) % 2, self.classes, groups)


def images_of(**members: Any) -> type[Dataset]:
    return type("Versioned", (Images,), {"__module__": __name__, **members})


@dataclass(frozen=True)
class Command:
    """One command: what is unlike in it, its plan, and what it writes to run.json."""

    options: Mapping[str, Any]
    plan: Plan
    info: Mapping[str, Any]

    def truth(self, record: Record) -> tuple[Any, ...]:
        """What made a cell, by the options of the command alone."""
        o = self.options
        network = self.network()
        part = "scored" if o["protocol"] == "leave_one_out" else "test"
        changed = (o["ood"], o["grouped"]) if own_name(record, "ood_set") == "add_two" else ()
        tuned: tuple[Any, ...] = ()
        if record.detector == "energy" and o["protocol"] != "defaults":
            on_two = own_name(record, "ood_set") == "add_one" and part == "scored"
            other = (o["ood"], o["grouped"]) if on_two else ()
            tuned = (o["protocol"], o["trained"], o["limit_train"], other)
        code = o["code"] if record.detector == "add_mine" else ""
        return (record.detector, code, own_name(record, "ood_set"), part, changed, tuned, *network)

    def network(self) -> tuple[Any, ...]:
        """What made a classifier, and the images that it was tested on."""
        o = self.options
        trained = ("file", o["checkpoint"])
        if not o["checkpoint"]:
            trained = (SUITES[o["suite"]], o["epochs"], o["limit_train"], o["trained"])  # type: ignore[assignment]
        return (o["backbone"], o["threads"], o["tested"], *trained)

    def outcome(self, cell: Cell) -> Record:
        """The record of a cell, with numbers that say what made it."""
        value = share(self.truth(cell.record))
        return replace(
            cell.record, status=OK, metrics=dict.fromkeys(METRICS, value), id_accuracy=share(self.network()), key="k"
        )


def share(truth: object) -> float:
    """A number in [0, 1] for something, another for anything else."""
    return int(digest(repr(truth))[:12], 16) / 16**12


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> list[Command]:
    """Commands with random options, planned in earnest: keys and origins are those of real runs."""
    folder = tmp_path_factory.mktemp("add")
    suites = {name: write_suite(folder, MATRIX, name=name, training=text) for name, text in SUITES.items()}
    draw = random.Random(5)
    threads = torch.get_num_threads()
    commands = [command(folder, suites, options) for options in drawn_options(draw)]
    torch.set_num_threads(threads)
    return commands


def drawn_options(draw: random.Random) -> Iterator[dict[str, Any]]:
    """Options close to each other, so that two commands often have unlike only one or two of them."""
    usual = {name: values[0] for name, values in OPTIONS.items()}
    for _ in range(POOL):
        changed = draw.sample(list(OPTIONS), draw.choice([0, 1, 1, 1, 2, 3]))
        changed = draw.choice([changed, changed, ["protocol", "ood"]])  # settings are chosen on the other OOD set
        options = {**usual, **{name: draw.choice(OPTIONS[name]) for name in changed}}
        yield {**options, "epochs": 0, "limit_train": 0} if options["checkpoint"] else options


def command(folder: Path, suites: Mapping[str, Path], options: Mapping[str, Any]) -> Command:
    sets = {
        "add_id": images_of(seed={"train": 10 + options["trained"], "test": 20 + options["tested"]}),
        "add_one": images_of(seed={"train": 30, "test": 31}),
        "add_two": images_of(seed={"train": 40, "test": 41 + options["ood"]}, groups=3 * options["grouped"]),
        "add_tuning": images_of(seed={"train": 50, "test": 51}),
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, dataset in sets.items():
            adopt(patch, "dataset", name, dataset)
        adopt(patch, "detector", "add_mine", detector_of(options["code"]))
        given = {name: options[name] for name in ("epochs", "limit_train", "backbone", "protocol", "threads")}
        if options["checkpoint"]:
            given["checkpoint"] = weights(folder / options["checkpoint"], options["backbone"] or TINY_BACKBONE)
        given["seeds"] = [options["ood"]] if options["checkpoint"] else 3  # a file of weights has one seed
        prepared = prepare_suite(suites[options["suite"]], "msp,energy,add_mine", name="add", **given)
        return Command(options, prepared.plan, collect_info(prepared.plan, prepared.context, prepared.asked))


def adopt(patch: pytest.MonkeyPatch, kind: str, name: str, plugin: type[Plugin]) -> None:
    patch.setattr(plugin, "name", name)
    patch.setitem(registry._from_files, (kind, name), PluginEntry(kind, name, "", "a test", lambda: plugin))


def detector_of(code: str) -> type[Detector]:
    """A detector whose author calls its code version `code`."""

    class Mine(Detector):
        version = code

        def score(self, batch: Batch) -> torch.Tensor:
            return -batch.logits[:, 0]

    return Mine


def weights(folder: Path, backbone: str) -> Path:
    """A file of weights of a backbone for the ID set; another one in every folder."""
    path = folder / digest(backbone)[:8] / "best.pth"
    if not path.is_file():
        path.parent.mkdir(parents=True)
        torch.manual_seed(sum(map(ord, str(folder.name))))
        torch.save(create("backbone", parse_spec(backbone)).build(2, SHAPE).state_dict(), path)
    return path


@dataclass
class Written:
    """What commands with --add leave in a run's folder."""

    folder: Path
    files: dict[str, Record]
    info: dict[str, Any]

    def add(self, one: Command, cells: list[Cell]) -> None:
        """Do as the runner does for some cells of a plan."""
        records = [one.outcome(cell) for cell in cells]
        plan = replace(one.plan, cells=cells)
        info = {**one.info, "cells": [record.file_name for record in records], "seeds": [r.seed for r in records]}
        self.info = merge_info(self.info, self.files, plan, info) if self.info else info
        self.files |= {record.file_name: record for record in records}
        self.files = {name: self.files[name] for name in self.info["cells"]}

    def read(self) -> StoredRun:
        told, pairs = tell_apart(list(self.files.values()), self.info["pairs"])
        return StoredRun(self.folder, {**self.info, "pairs": pairs}, told)


def drawn_cells(one: Command, draw: random.Random) -> list[Cell]:
    """The cells of a plan for some seeds and detectors."""
    known = sorted({cell.record.seed for cell in one.plan.cells})
    seeds = draw.sample(known, draw.choice([1, 1, min(2, len(known))]))
    detectors = draw.sample(["msp", "energy", "add_mine"], draw.choice([1, 2, 3]))
    return [cell for cell in one.plan.cells if cell.record.seed in seeds and cell.record.detector in detectors]


def deviations(summary: Summary) -> Iterator[float]:
    """Every standard deviation over seeds."""
    for row in (row for block in summary.blocks for row in block.rows):
        stats = [*row.means.values(), *([row.id_accuracy] if row.id_accuracy else [])]
        stats += [stat for cell in row.cells.values() for stat in cell.stats.values()]
        yield from (stat.std for stat in stats if stat.std is not None)


def test_random_commands_never_join_unlike_cells(pool: list[Command], tmp_path: Path) -> None:
    """Cells that were made alike have the same number here, so that a deviation shows a mean of unlike ones."""
    joined_by_label = 0
    for number in range(DRAWS):
        draw = random.Random(number)
        written = Written(tmp_path, {}, {})
        expected: dict[tuple[Any, ...], float] = {}
        for one in draw.choices(pool, k=draw.choice([2, 2, 3])):
            cells = drawn_cells(one, draw)
            written.add(one, cells)
            expected |= {(one.truth(c.record), c.record.seed): share(one.truth(c.record)) for c in cells}
        run = written.read()
        assert max(deviations(summary_of(run)), default=0.0) < 1e-12, number
        assert sorted(r.metrics["auroc"] for r in run.records) == sorted(expected.values()), number
        assert not list(unlike(run.records)), number
        places = [(r.id_set, r.label, r.ood_set, r.seed) for r in run.records]
        assert len(set(places)) == len(places), number
        bare = StoredRun(tmp_path, written.info, list(written.files.values()))
        joined_by_label += max(deviations(summary_of(bare)), default=0.0) > 1e-6
    assert joined_by_label > DRAWS / 4  # so many draws are wrong where labels alone decide


# Whole commands


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., StoredRun]:
    """Run a suite of one ID set and one OOD set with --add."""
    suite = write_suite(tmp_path, '[[id]]\nset = "digits[0-1]"\nood = [{ set = "greek", group = "near" }]')
    return partial(run_suite, suite, add=True)


def rows_of(run: StoredRun) -> dict[str, list[int]]:
    """Label -> the seeds of its records."""
    rows: dict[str, list[int]] = {}
    for record in run.records:
        rows.setdefault(record.label, []).append(record.seed)
    return rows


def test_other_epochs_are_another_row(run: Callable[..., StoredRun]) -> None:
    run(seeds=[0, 1])
    both = run(epochs=2, seeds=[2])
    assert rows_of(both) == {"msp (epochs=1)": [0, 1], "msp (epochs=2)": [2]}
    assert {tuple(row.cells) for block in summary_of(both).blocks for row in block.rows} == {("greek",)}
    text = " ".join(table_markdown(both).replace("\\", "").split())
    assert "msp (epochs=1)" in text
    assert "msp (epochs=2)" in text
    assert f"Note: {QUICK_LOOK}: trained on all images, 2 epochs (digits[0-1], msp (epochs=2), greek)" in text
    rows = csv_rows((both.path / "records.csv").read_text())
    assert [row["label"] for row in rows] == ["msp (epochs=1)", "msp (epochs=1)", "msp (epochs=2)"]
    assert [label for _, label in public(both).table().index] == ["msp (epochs=1)", "msp (epochs=2)"]
    assert not list(unlike(both.records))


def test_a_seed_of_the_same_row_is_joined(run: Callable[..., StoredRun]) -> None:
    run(seeds=[0])
    both = run(seeds=[1])
    assert rows_of(both) == {"msp": [0, 1]}
    [row] = summary_of(both).blocks[0].rows
    assert row.cells["greek"].stats["auroc"].n == 2
    assert "label" not in (both.path / "records.csv").read_text().partition("\n")[0].split(",")


@pytest.mark.slow
def test_numbers_besides_the_exact_ones_make_no_row_of_their_own(run: Callable[..., StoredRun]) -> None:
    run(seeds=[0])
    run(seeds=[1], stability=True)
    assert rows_of(run(seeds=[2], metrics="extended,lee2018")) == {"msp": [0, 1, 2]}


def test_the_same_command_again_changes_nothing(run: Callable[..., StoredRun]) -> None:
    run(seeds=[0])
    before = tables_of(run(epochs=2, seeds=[1]).path)
    assert tables_of(run(epochs=2, seeds=[1]).path) == before


def test_files_of_one_name_are_rows_of_their_own(run: Callable[..., StoredRun], tmp_path: Path) -> None:
    """Two files of one name in two folders, then other bytes in the second: nothing is replaced."""
    files = [tmp_path / folder / "best.pth" for folder in ("one", "two")]
    backbone = create("backbone", parse_spec(TINY_BACKBONE))
    for number, file in enumerate([*files, files[1]]):
        torch.manual_seed(number)
        file.parent.mkdir(exist_ok=True)
        torch.save(backbone.build(2, (3, 32, 32)).state_dict(), file)
        added = run(checkpoint=file)
        assert len(added.records) == number + 1
    label = "msp@checkpoint[file=best.pth]"
    first, *second = rows_of(added)
    assert first.startswith(f"{label} (one/best.pth")
    assert all(one.startswith(f"{label} (two/best.pth; bytes=") for one in second)
    assert len({record.metrics["auroc"] for record in added.records}) == 3
    named = [file.with_name(name) for file, name in zip(files, ("k>5.pth", "k<5.pth"), strict=True)]
    for old, new in zip(files, named, strict=True):
        old.rename(new)
    by_name = [run(checkpoint=file, name="names") for file in named][-1]
    assert [one.partition(" (")[2] for one in rows_of(by_name)] == ["k>5.pth)", "k<5.pth)"]


@pytest.mark.slow
def test_other_threads_are_another_row(run: Callable[..., StoredRun], tmp_path: Path) -> None:
    torch.manual_seed(0)
    torch.save(create("backbone", parse_spec(TINY_BACKBONE)).build(2, (3, 32, 32)).state_dict(), tmp_path / "w.pth")
    for given in ({}, {"checkpoint": tmp_path / "w.pth", "name": "imported"}):
        for seed in (1, 2):
            added = run(threads=seed, seeds=[seed], **given)
        assert [label.partition(" ")[2] for label in rows_of(added)] == ["(threads=1)", "(threads=2)"]


def test_other_code_under_the_same_name_is_another_row(run: Callable[..., StoredRun], register: Register) -> None:
    for code in ("1", "2"):
        register("add_mine", detector_of(code))
        added = run("add_mine,msp", seeds=[int(code)])
    assert rows_of(added) == {"add_mine (source=1)": [1], "msp": [1, 2], "add_mine (source=2)": [2]}


def test_other_test_images_are_other_columns(run: Callable[..., StoredRun], register: Register) -> None:
    """Numbers on unlike images are not compared either: bold, marks and tests are by column."""
    register("add_ood", images_of(seed={"test": 1}))
    run("msp,energy", ood_sets="greek,add_ood", seeds=[0])
    register("add_ood", images_of(seed={"test": 2}))
    added = run("msp,energy", ood_sets="greek,add_ood", seeds=[0, 1])
    columns = list(dict.fromkeys(record.ood_set for record in added.records))
    assert [name.partition(" (images ")[0] for name in columns] == ["greek", "add_ood", "add_ood"]
    assert [pair["ood_set"] for pair in added.info["pairs"]] == columns
    by_set = {name: [r.seed for r in added.records if (r.ood_set, r.label) == (name, "msp")] for name in columns}
    assert list(by_set.values()) == [[0, 1], [0], [0, 1]]
    assert set(read_best(added)) == {("digits[0-1]", name) for name in columns}
    done = bench("verify", "tiny", "--results", added.path.parents[1])
    assert "what made it" not in done.output


def test_other_images_of_the_id_set_are_another_table(tmp_path: Path, register: Register) -> None:
    suite = write_suite(tmp_path, '[[id]]\nset = "add_id"\nood = [{ set = "uniform" }]')
    for test in (2, 3):
        register("add_id", images_of(seed={"train": 1, "test": test}))
        added = run_suite(suite, add=True, seeds=[test])
    assert [block.id_set.partition(" (images ")[0] for block in summary_of(added).blocks] == ["add_id", "add_id"]
    assert [row.label for block in summary_of(added).blocks for row in block.rows] == ["msp", "msp"]
    register("add_id", images_of(seed={"train": 9, "test": 3}))
    labels = list(rows_of(run_suite(suite, add=True, seeds=[3])))
    assert labels[0].startswith("msp (training images=")
    assert len(labels) == 2


def test_notes_and_absences_of_earlier_commands_stay(tmp_path: Path) -> None:
    matrix = '[[id]]\nset = "digits[0-1]"\nood = [{ set = "greek" }, { set = "svhn" }]'
    one = write_suite(tmp_path, matrix, name="one", title="First")
    two = write_suite(tmp_path, matrix.replace(', { set = "svhn" }', ""), name="two", title="Second")
    for suite, text in ((one, "Of the first."), (two, "Of the second.")):
        suite.write_text(f'notes = ["{text}"]\n{suite.read_text()}')
    run_suite(one, name="both")
    both = run_suite(two, name="both", add=True)
    text = " ".join(table_markdown(both).split())
    assert "Note: Of the first." in text
    assert "Note: Of the second." in text
    assert "Skipped: svhn (" in text
    assert both.info["suite"] == {"name": "one; two", "title": "First; Second"}


def test_verify_checks_what_rows_join(run: Callable[..., StoredRun]) -> None:
    """A record that claims to be made as another one is found by its artifacts, though the tables follow the claim."""
    run(seeds=[0])
    both = run(epochs=2, seeds=[1])
    results = both.path.parents[1]
    assert bench("verify", "tiny", "--results", results).exit_code == 0
    files = [both.path / "cells" / name for name in both.info["cells"]]
    first, second = (json.loads(file.read_text()) for file in files)
    files[1].write_text(json.dumps({**second, "origin": first["origin"]}))
    joined = read_stored_run(both.path)
    assert rows_of(joined) == {"msp": [0, 1]}
    write_tables(joined)
    done = bench("verify", "tiny", "--results", results)
    assert done.exit_code == 1
    cell = "digits[0-1]/greek/msp/1"
    assert f"{cell}: what made it, by which rows are told apart, is not what its artifacts say" in done.output
    assert f"{cell}: its row joins cells that were not made alike" in done.output


def test_cells_of_an_older_version_are_replaced_or_rows_of_their_own(
    run: Callable[..., StoredRun], logged: list[str]
) -> None:
    first = run(seeds=[0, 1])
    names = []
    for record in first.records:
        path = first.path / "cells" / record.file_name
        content = json.loads(path.read_text())
        del content["origin"]
        path.unlink()
        older = path.with_name(replace(record, origin={}).file_name)
        older.write_text(json.dumps(content))
        names.append(older.name)
    info = json.loads((first.path / "run.json").read_text())
    (first.path / "run.json").write_text(json.dumps({**info, "cells": names}))
    assert rows_of(read_stored_run(first.path)) == {"msp": [0, 1]}
    added = run(seeds=[1, 2])
    assert rows_of(added) == {"msp (older version)": [0], "msp": [1, 2]}
    assert "1 cell of an older version is replaced." in logged


@pytest.mark.slow
def test_verify_finds_what_made_a_tuned_cell_with_extended_metrics(tmp_path: Path) -> None:
    """Settings differ from cell to cell of a row here; all artifacts behind the row are in the store."""
    suite = write_suite(tmp_path, '[[id]]\nset = "digits[0-1]"\nood = [{ set = "greek" }, { set = "uniform" }]')
    done = run_suite(suite, "energy", protocol="leave_one_out", metrics="extended")
    assert [record.origin["facts"]["protocol"] for record in done.records] == ["leave_one_out"] * 2
    assert rows_of(done) == {"energy": [0, 0]}
    assert len({record.origin["cell"] for record in done.records}) == 2
    assert len({record.origin["row"] for record in done.records}) == 1
    added = run_suite(suite, "energy", protocol="leave_one_out", metrics="extended", seeds=[1], add=True)
    assert rows_of(added) == {"energy": [0, 0, 1, 1]}
    verified = bench("verify", "tiny", "--results", tmp_path / "results")
    assert verified.exit_code == 0, verified.output
