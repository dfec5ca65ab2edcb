"""`bench score`: files, folders and archives; lines, CSV and exit codes; memory; the drift report."""

from __future__ import annotations

import json
import tracemalloc
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from oodbench.benchmark import Monitor, evaluate, load_monitor
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.standalone.bundle.drift import Drift, Tally
from oodbench.benchmark.standalone.bundle.drift_page import write_report
from oodbench.benchmark.standalone.bundle.monitor import FileVerdict
from tests.standalone.bundle.bundles import save_pictures
from tests.support import bench, csv_rows, encode_image


def accepted_and_rejected(monitor: Monitor, folder: Path) -> tuple[Path, Path]:
    """A picture that is accepted and one that is not."""
    paths = [*save_pictures(folder, "digits", 40), *save_pictures(folder, "patches", 40)]
    verdicts = list(monitor.score_files(paths))
    accepted = next(Path(verdict.name) for verdict in verdicts if verdict.accepted)
    rejected = next(Path(verdict.name) for verdict in verdicts if not verdict.accepted)
    return accepted, rejected


def test_exit_codes_say_whether_all_are_accepted(vim_file: Path, vim: Monitor, tmp_path: Path) -> None:
    good, odd = accepted_and_rejected(vim, tmp_path / "pictures")
    done = bench("score", vim_file, good)
    assert done.exit_code == 0
    name, score, decision, predicted = done.stdout.rstrip("\n").split("\t")
    assert (name, decision) == (str(good), "accepted")
    assert float(score) == pytest.approx(vim(good).scores[0], rel=1e-5)
    assert predicted == vim.class_names[vim(good).classes[0]]
    done = bench("score", vim_file, good, odd)
    assert done.exit_code == 1
    assert [line.split("\t")[2] for line in done.stdout.splitlines()] == ["accepted", "rejected"]
    assert "1 accepted, 1 rejected; accepted: score <= " in done.stderr


def test_images_that_cannot_be_read_are_said_and_the_others_scored(vim_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    good = save_pictures(folder, "digits", 3)
    (folder / "a.png").write_bytes(b"no image")
    (folder / "deep.png").write_bytes(encode_image(Image.new("I;16", (32, 32))))
    (folder / "notes.txt").write_text("passed over")
    (folder / ".hidden.png").write_bytes(b"passed over")
    done = bench("score", vim_file, folder, tmp_path / "nowhere.png")
    assert done.exit_code == 2
    assert [line.split("\t")[0] for line in done.stdout.splitlines()] == [str(path) for path in good]
    problems = [line for line in done.stderr.splitlines() if line.startswith("'")]
    assert problems == [
        f"'{folder / 'a.png'}' is no image in a known format.",
        f"'{folder / 'deep.png'}' has more than 8 bits a channel; convert it to 8.",
        f"'{tmp_path / 'nowhere.png'}' is not there.",
    ]
    assert "3 not usable" in done.stderr


def test_folders_and_archives_are_searched(vim_file: Path, tmp_path: Path) -> None:
    paths = save_pictures(tmp_path / "pictures" / "below", "digits", 4)
    with zipfile.ZipFile(tmp_path / "pictures.zip", "w") as archive:
        for path in paths:
            archive.write(path, f"inside/{path.name}")
    plain = [line.split("\t") for line in bench("score", vim_file, *paths).stdout.splitlines()]
    for place in (tmp_path / "pictures", tmp_path / "pictures.zip"):
        found = [line.split("\t") for line in bench("score", vim_file, place).stdout.splitlines()]
        assert [line[1:] for line in found] == [line[1:] for line in plain]
        assert all(line[0].startswith(str(place)) for line in found)
    (tmp_path / "broken.zip").write_bytes((tmp_path / "pictures.zip").read_bytes()[:-30])
    done = bench("score", vim_file, tmp_path / "broken.zip")
    assert done.exit_code == 2
    (tmp_path / "empty").mkdir()
    done = bench("score", vim_file, tmp_path / "empty")
    assert done.exit_code == 2
    assert "There are no images in" in done.stderr


def test_csv_has_every_digit(vim_file: Path, vim: Monitor, tmp_path: Path) -> None:
    paths = save_pictures(tmp_path / "pictures", "digits", 3)
    table = tmp_path / "scores.csv"
    done = bench("score", vim_file, *paths, "--csv", table)
    assert done.stdout == ""
    rows = csv_rows(table.read_text(encoding="utf-8"))
    assert [float(row["score"]) for row in rows] == vim(paths).scores.tolist()
    assert [row["image"] for row in rows] == [str(path) for path in paths]
    assert set(rows[0]) == {"image", "score", "decision", "predicted"}
    assert csv_rows(bench("score", vim_file, *paths, "--csv", "-").stdout) == rows
    done = bench("score", vim_file, *paths, "--csv", tmp_path / "nowhere" / "scores.csv")
    assert done.exit_code == 2
    assert "Cannot write" in done.stderr


def test_another_share_moves_the_threshold(vim_file: Path, vim: Monitor, tmp_path: Path) -> None:
    scores = vim.bundle.validation_scores
    paths = save_pictures(tmp_path / "pictures", "digits", 30)
    done = bench("score", vim_file, *paths, "--tpr", 0.2)
    threshold = np.sort(scores)[int(np.ceil(0.2 * len(scores))) - 1]
    decisions = [line.split("\t")[2] for line in done.stdout.splitlines()]
    assert decisions == ["accepted" if score <= threshold else "rejected" for score in vim(paths).scores]
    assert bench("score", vim_file, *paths, "--tpr", 20).exit_code == 2


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_files(vim: Monitor, tmp_path: Path) -> None:
    (path,) = save_pictures(tmp_path, "digits", 1)

    def peak(count: int) -> int:
        tracemalloc.start()
        scored = sum(verdict.score is not None for verdict in vim.score_files(path for _ in range(count)))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert scored == count
        return peak

    peak(300)
    assert peak(1600) < 1.2 * peak(600)


def verdicts(scores: np.ndarray) -> Iterator[FileVerdict]:
    return (FileVerdict("", float(score), False, "7") for score in scores)


def drift_of(monitor: Monitor, scores: np.ndarray) -> Drift:
    tally = Tally()
    for verdict in verdicts(scores):
        tally.add(verdict)
    return Drift.of(monitor, tally)


def test_a_report_compares_with_validation_images(vim: Monitor) -> None:
    known = vim.bundle.validation_scores
    same = drift_of(vim, known)
    assert same.shares[0] == same.shares[1]
    assert same.share_p == 1
    assert same.distance == (0, 1)
    assert same.higher == 0.5
    assert "not distinguishable" in same.sentences()[0]
    shifted = drift_of(vim, known + 2 * np.ptp(known))
    assert shifted.shares[1] == 0
    assert shifted.interval[0] == 0
    assert shifted.share_p < 1e-20
    assert shifted.distance[0] == 1
    assert shifted.higher == 1 == evaluate(known, shifted.scores)["auroc"]
    assert "0.0% of 130 images are accepted" in shifted.sentences()[0]
    assert "fewer than" in shifted.sentences()[0]
    edges, validation, here = shifted.histograms()
    assert validation.sum() == pytest.approx(1)
    assert here.sum() == pytest.approx(1)
    assert edges[0] < vim.threshold < edges[-1]
    with pytest.raises(UserError, match="no image has a score"):
        Drift.of(vim, Tally())


def test_reports_are_pages_markdown_and_json(vim_file: Path, tmp_path: Path) -> None:
    paths = [*save_pictures(tmp_path / "in", "digits", 20), *save_pictures(tmp_path / "in", "patches", 20)]
    page = tmp_path / "drift.html"
    done = bench("score", vim_file, tmp_path / "in", "--report", page)
    assert done.exit_code == 1
    text = page.read_text(encoding="utf-8")
    assert "Drift report: vim on digits" in text
    assert "data:image/png;base64," in text
    assert f"of {len(paths)} images are accepted" in text
    assert "of 40 images are accepted" in done.stderr
    bench("score", vim_file, tmp_path / "in", "--report", tmp_path / "drift.md")
    assert "![Histogram of scores](drift.png)" in (tmp_path / "drift.md").read_text(encoding="utf-8")
    with Image.open(tmp_path / "drift.png") as picture:
        assert picture.size[0] > 500
    bench("score", vim_file, tmp_path / "in", "--report", tmp_path / "drift.json")
    numbers = json.loads((tmp_path / "drift.json").read_text(encoding="utf-8"))
    decisions = bench("score", vim_file, tmp_path / "in").stdout
    assert numbers["accepted"] == decisions.count("accepted")
    assert sum(numbers["predicted"].values()) == numbers["images"] == 40
    done = bench("score", vim_file, tmp_path / "in", "--report", tmp_path / "drift.pdf")
    assert done.exit_code == 2
    assert "must end in one of .html, .md, .json" in done.stderr


def test_equal_scores_give_an_equal_report(vim_file: Path, tmp_path: Path) -> None:
    scores = load_monitor(vim_file).bundle.validation_scores
    for name in ("a", "b"):
        write_report(drift_of(load_monitor(vim_file), scores[::2]), tmp_path / f"{name}.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_constant_scores_have_a_histogram(vim: Monitor) -> None:
    drift = drift_of(vim, np.full(5, vim.threshold))
    assert drift.histograms()[2].sum() == pytest.approx(1)
    assert drift.shares[1] == 1
