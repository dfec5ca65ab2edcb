"""Groups of images that depend on each other: numbers that depend on them change with them, and nothing else."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np
import pytest

from oodbench.benchmark import Dataset, ImageSet
from oodbench.benchmark.api import Prepared
from oodbench.benchmark.data.files.decode import Decoded
from oodbench.benchmark.data.files.file_dataset import FileDataset
from oodbench.benchmark.data.files.file_source import File, Source
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.specs import parse_set
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.stages.evaluate import cell_key, key_content
from oodbench.benchmark.stats.intervals import confidence_intervals
from tests.data.image_sets import smooth
from tests.support import bench, prepare_suite, run_suite, write_suite

Register = Callable[[str, type[Plugin]], None]

SHAPE = (3, 32, 32)
MATRIX = """
[[id]]
set = "known"
ood = [{ set = "other" }]
"""
COUNTS = {"train": 80, "test": 60}

Groups = Callable[[str, int], np.ndarray | None]
"""The groups of a split, given its name and number of images."""


def none(split: str, count: int) -> None:
    return None


def of(size: int) -> Groups:
    """Groups of `size` neighbours; in the training split always of eight."""
    return lambda split, count: np.arange(count) // (size if split == "test" else 8)


def a_set(seed: int, grouped: Groups) -> type[Dataset]:
    class Images(Dataset):
        classes = ("a", "b")

        def load(self, split: str, data_dir: Path) -> ImageSet:
            images = smooth(COUNTS[split], 2 * seed + (split == "test"), SHAPE)
            labels = np.arange(len(images)) % 2
            return ImageSet(images, labels, self.classes, grouped(split, len(images)))

    return Images


@pytest.fixture
def plan(tmp_path: Path, register: Register) -> Callable[[Groups, Groups], Prepared]:
    """Plan a run on two sets with the given groups, ID and OOD."""
    suite = write_suite(tmp_path, MATRIX)

    def prepared(known: Groups, other: Groups) -> Prepared:
        register("known", a_set(1, known))
        register("other", a_set(2, other))
        return prepare_suite(suite)

    return prepared


@pytest.fixture
def run(tmp_path: Path, register: Register) -> Callable[[Groups, Groups], StoredRun]:
    """Run it."""
    suite = write_suite(tmp_path, MATRIX)

    def done(known: Groups, other: Groups) -> StoredRun:
        register("known", a_set(1, known))
        register("other", a_set(2, other))
        return run_suite(suite)

    return done


@pytest.mark.parametrize(
    "known, other", [(of(6), none), (none, of(6)), (of(3), of(6)), (of(6), of(3))], ids=["ID", "OOD", "both", "swapped"]
)
def test_groups_are_part_of_a_cells_key(plan: Callable[..., Prepared], known: Groups, other: Groups) -> None:
    prepared = {grouped: plan(*grouped) for grouped in ((none, none), (known, other))}
    before, after = (one.plan.cells[0] for one in prepared.values())
    assert cell_key(before) != cell_key(after)
    assert key_content(before).keys() == {"scores", "id", "metrics", "intervals"}
    assert key_content(after).keys() == {"scores", "id", "metrics", "intervals", "groups"}
    if known is none:  # groups of a test split alone recompute no artifact
        assert prepared[none, none].plan.jobs.keys() == prepared[known, other].plan.jobs.keys()


def test_changed_groups_give_new_intervals_and_recompute_no_score(run: Callable[..., StoredRun]) -> None:
    (first,) = run(of(6), of(6)).records
    done = run(of(6), of(20))
    (second,) = done.records
    assert second.intervals != first.intervals
    assert (second.metrics, second.artifacts) == (first.metrics, first.artifacts)
    paths = (done.path.parent.parent / "cache" / second.artifacts[f"{side}_scores"] for side in ("id", "ood"))
    groups = (of(size)("test", COUNTS["test"]) for size in (6, 20))
    expected = confidence_intervals(*map(np.load, paths), *groups)
    assert {name: tuple(ends) for name, ends in second.intervals.items()} == expected


def test_equal_groups_recompute_nothing(run: Callable[..., StoredRun]) -> None:
    path = next((run(of(6), of(6)).path / "cells").iterdir())
    before = path.stat().st_mtime_ns
    run(of(6), of(6))
    assert path.stat().st_mtime_ns == before


def test_verify_notices_groups_other_than_those_of_the_intervals(
    run: Callable[..., StoredRun], register: Register
) -> None:
    results = run(of(6), of(6)).path.parent.parent
    assert bench("verify", "tiny", "--results", results).exit_code == 0
    register("other", a_set(2, of(20)))
    done = bench("verify", "tiny", "--results", results)
    assert done.exit_code == 1
    assert "other (test): its images are grouped in another way than when the cell was computed" in done.output
    assert "not checked for 1 cell: confidence intervals, because the images in --data-dir differ" in done.output


class Shades(NamedTuple):
    """Reads 40 images; only the groups depend on the settings."""

    size: int

    def read(self, paths: Sequence[Path]) -> Decoded:
        return Decoded(smooth(40, 1, SHAPE), np.arange(40) % 2, np.arange(40) // self.size)


def test_stored_checksums_of_a_splits_parts_depend_on_its_groups(tmp_path: Path, register: Register) -> None:
    """Groups decide which images are held out and which half of a test split settings are chosen on."""
    (tmp_path / "shades").write_bytes(b"")
    checksums = []
    for size in (4, 10):
        source = Source((File(("shades",)),), Shades(size))

        class Grouped(FileDataset):
            classes = ("a", "b")
            sources: ClassVar[Mapping[str, tuple[Source, ...]]] = {"train": (source,), "test": (source,)}

        register("grouped", Grouped)
        library = Library(tmp_path, tmp_path / "cache")
        parts = {part: library.part(parse_set("grouped"), part) for part in ("train", "validation", "tuning", "scored")}
        for part, images in parts.items():
            fresh = ImageSet(images.images, images.labels, images.classes, images.groups)
            assert images.checksum == fresh.checksum, part
        checksums.append({part: images.checksum for part, images in parts.items()})
    assert checksums[0]["validation"] != checksums[1]["validation"]
