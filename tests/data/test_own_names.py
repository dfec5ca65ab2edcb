"""Names of the user's own sets: two folders of one name are two columns, in a run and in what reads it again."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from oodbench.benchmark.data.own_names import free_name, readable
from oodbench.benchmark.plugins.registry import registry
from tests.data.trees import as_folder
from tests.support import bench, csv_rows, encode_image, noise_images, run_suite, write_suite


def test_a_name_has_as_many_folders_in_front_as_it_needs() -> None:
    path = Path("/x/b/mine")
    taken = {"mine", "b/mine"}
    assert free_name(path, "mine", set[str]().__contains__) == "mine"
    assert free_name(path, "mine", {"mine"}.__contains__) == "b/mine"
    assert free_name(path, "mine", taken.__contains__) == "x/b/mine"
    full = free_name(path, "mine", lambda name: not name.count("-"))
    assert full.startswith("x/b/mine-")


def test_names_hold_what_a_data_set_s_name_can() -> None:
    assert readable("my photos (2)") == "my-photos-2"
    assert readable("写真").startswith("images-")
    assert readable("写真") != readable("写真2")


@pytest.mark.usefixtures("one_thread")
def test_two_folders_of_one_name_are_two_columns_that_verify_and_show_find_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(registry, "_from_files", dict(registry._from_files))
    for number, place in enumerate(("b", "a")):
        images = noise_images(12, number, (32, 32, 3)) // (number + 1)
        members = {f"{i}.png": encode_image(np.asarray(image)) for i, image in enumerate(images)}
        as_folder(tmp_path / place / "mine", members)
    folders = [f"folder:{tmp_path / place / 'mine'}" for place in ("b", "a")]
    suite = write_suite(tmp_path, '[[id]]\nset = "digits[0-1]"\nood = [{ set = "uniform" }]')
    run = run_suite(suite, "energy", ood_sets=",".join(folders))
    assert [(r.ood_set, r.n_ood) for r in run.records] == [("folder:mine", 12), ("folder:a/mine", 12)]
    checksums = {r.origin["images"]["ood"]["checksum"] for r in run.records}
    assert len(checksums) == 2
    for name in ("folder:mine", "folder:a/mine"):
        registry.disown("dataset", name)
    verified = bench("verify", run.path, "--results", suite.parent / "results")
    assert verified.exit_code == 0, verified.output
    for name in ("folder:mine", "folder:a/mine"):
        registry.disown("dataset", name)
    shown = bench("show", run.path, "--cell", "digits[0-1]/folder:a/mine/energy", "--scores", "-")
    assert shown.exit_code == 0, shown.output
    rows = [row for row in csv_rows(shown.stdout) if row["split"] == "ood"]
    assert {row["image"] for row in rows} == {f"{i}.png" for i in range(12)}
