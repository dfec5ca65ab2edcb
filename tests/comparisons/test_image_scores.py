"""Which picture got which score: `bench show RUN --scores`, for files of a user's own, arrays, and lost images."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oodbench.benchmark import ImageSet
from oodbench.benchmark.comparisons.image_scores import COLUMNS
from oodbench.benchmark.data.files.user_folder import adopt
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.plugins.specs import SetSpec, parse_set
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.store.npy import load_array
from oodbench.benchmark.verify.run import verify
from tests.support import bench, csv_rows, encode_image, noise_images, run_suite, write_suite

pytestmark = pytest.mark.usefixtures("one_thread", "undrawn")

CLASSES = ("cat", "dog")


def photographs(folder: Path) -> tuple[str, str]:
    """An ID folder with 12 training and 3 test images of each of two classes, and an OOD folder; as names of sets."""
    images = noise_images(40, shape=(32, 32, 3))
    for number, image in enumerate(images[:30]):
        split, name = ("train" if number < 24 else "test"), CLASSES[number % 2]
        path = folder / "pets" / split / name / f"{number:02d} {name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_image(image))
    for number, image in enumerate(images[30:]):
        path = folder / "other" / f"sub{number % 2}" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode_image(image))
    return f"folder:{folder / 'pets'}", f"folder:{folder / 'other'}"


def run_of_folders(tmp_path: Path, **options: Any) -> StoredRun:
    suite = write_suite(tmp_path, "[[id]]\nset = 'digits'\nood = [{ set = 'uniform' }]")
    id_set, ood_set = photographs(tmp_path)
    return run_suite(suite, "msp,energy", id_sets=id_set, ood_sets=ood_set, **options)


def exported(run: StoredRun, *options: object) -> list[dict[str, str]]:
    file = run.path / "scores.csv"
    results = run.path.parents[1]
    result = bench("show", run.path.name, "--results", results, "--data-dir", results, "--scores", file, *options)
    assert result.exit_code == 0, result.output
    return csv_rows(file.read_text(encoding="utf-8"))


@pytest.mark.parametrize("options", [{}, {"resize": "24x24"}])
def test_file_names_stay_with_their_scores(tmp_path: Path, options: dict[str, str]) -> None:
    """At 32 x 32, where the cache stores no names, and where pictures are decoded when they are read."""
    run = run_of_folders(tmp_path, **options)
    rows = exported(run, "--cell", "*/*/energy")
    assert tuple(rows[0]) == COLUMNS
    (record,) = (record for record in run.records if record.detector == "energy")
    of_id, of_ood = ([row for row in rows if row["split"] == split] for split in ("id", "ood"))
    names = [f"test/cat/{n} cat.png" for n in (24, 26, 28)] + [f"test/dog/{n} dog.png" for n in (25, 27, 29)]
    assert [row["image"] for row in of_id] == names
    assert [row["label"] for row in of_id] == ["cat"] * 3 + ["dog"] * 3
    assert [row["image"] for row in of_ood] == [f"sub{n % 2}/{n}.png" for n in (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)]
    assert {row["label"] for row in of_ood} == {""}
    cache = run.path.parents[1] / "cache"
    for side, part in (("id", of_id), ("ood", of_ood)):
        scores = load_array(cache / record.artifacts[f"{side}_scores"])
        assert [float(row["score"]) for row in part] == scores.tolist()
    assert {row["predicted"] for row in rows} <= set(CLASSES)
    assert [row["is_error"] for row in of_ood] == [""] * 10
    wrong = [row["predicted"] != row["label"] for row in of_id]
    assert [row["is_error"] for row in of_id] == [str(int(error)) for error in wrong]
    assert record.id_accuracy == pytest.approx(1 - np.mean(wrong))
    assert verify(run.path, run.path.parents[1], tmp_path).problems == []


def test_all_cells_of_a_run_and_sorted_by_score(tmp_path: Path) -> None:
    run = run_of_folders(tmp_path)
    rows = exported(run, "--sort", "score")
    assert [row["detector"] for row in rows] == ["msp"] * 16 + ["energy"] * 16
    for start in (0, 16):
        scores = [float(row["score"]) for row in rows[start : start + 16]]
        assert scores == sorted(scores, reverse=True)
    assert sorted(map(tuple, (row.items() for row in rows))) == sorted(map(tuple, (r.items() for r in exported(run))))


@pytest.mark.slow
def test_images_without_names_are_numbered_and_lost_ones_are_said(tmp_path: Path) -> None:
    suite = write_suite(tmp_path, "[[id]]\nset = 'digits[0-1]'\nood = [{ set = 'uniform' }]")
    run = run_suite(suite)
    rows = exported(run)
    assert rows[0]["image"] == "image 0"
    assert rows[0]["label"] in ("0", "1")
    pets = tmp_path / "gone"
    run = run_of_folders(pets.parent, name="lost")
    for file in (tmp_path / "pets").rglob("*.png"):
        file.unlink()
    result = bench("show", "lost", "--results", tmp_path / "results", "--cell", "*/*/msp", "--scores", "-")
    assert result.exit_code == 0, result.output
    assert "No names and labels of 'folder:pets', whose images are not in --data-dir." in result.output


def test_scores_that_are_gone_and_cells_without_any_are_refused(tmp_path: Path) -> None:
    run = run_of_folders(tmp_path)
    results = tmp_path / "results"
    result = bench("show", run.path.name, "--results", results, "--cell", "nothing", "--scores", "-")
    assert result.exit_code == 2
    assert "The run has no cell 'nothing'" in result.output
    for path in (results / "cache" / "scores").rglob("*.npy"):
        path.unlink()
    file = tmp_path / "s.csv"
    result = bench("show", run.path.name, "--results", results, "--scores", file)
    assert result.exit_code == 2
    assert "are not in" in result.output
    assert "Repeat the command that made the run" in result.output
    assert not file.exists()
    (results / "file").write_text("")
    result = bench("show", run.path.name, "--results", results, "--scores", results / "file" / "s.csv")
    assert result.exit_code == 2


def test_names_follow_a_selection_and_leave_out_what_cannot_be_used(tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, image in enumerate(noise_images(4, shape=(32, 32, 3))):
        (folder / f"a {number}.png").write_bytes(encode_image(image))
    (folder / "a 1 cut.png").write_bytes(encode_image(noise_images(1, shape=(32, 32, 3))[0])[:60])
    spec = adopt(SetSpec(f"folder:{folder}"))
    for cache in (None, tmp_path / "cache", tmp_path / "cache"):  # decoded, decoded and stored, read from the cache
        images = Library(tmp_path, cache, skip_bad=True).split(spec, "test")
        assert images.names == [f"a {number}.png" for number in range(4)]
        assert images.take(np.array([2, 0])).names == ["a 2.png", "a 0.png"]
        assert images.take(np.array([False, True, False, True])).names == ["a 1.png", "a 3.png"]
    plain = ImageSet(noise_images(2))
    assert plain.names is None
    assert plain.with_names(lambda: ["x", "y"]).names == ["x", "y"]
    assert plain.with_names(lambda: ["x", "y"]).checksum == plain.checksum
    assert Library(tmp_path).split(parse_set("digits"), "test").names is None


def test_the_file_is_csv_that_others_read(tmp_path: Path) -> None:
    run = run_of_folders(tmp_path)
    exported(run)
    with (run.path / "scores.csv").open(newline="", encoding="utf-8") as file:
        assert len(list(csv.reader(file))) == 1 + 2 * 16
