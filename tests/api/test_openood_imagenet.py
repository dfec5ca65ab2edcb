"""Whole runs of the ImageNet suites on a small tree in OpenOOD's layout, with a network of given weights."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image

from oodbench.benchmark.records.run import StoredRun, read_stored_run
from tests.data.openood_tree import IMAGENET, IMAGENET_200, openood_tree, picture
from tests.support import bench, draw_no_plots

torchvision = pytest.importorskip("torchvision")

pytestmark = pytest.mark.slow

NETWORK = "torchvision:mobilenet_v3_small"
SMALL = ["--resize", "40", "--crop", "32", "--block", "8"]
SETS = ["ssb-hard", "ninco", "inaturalist", "textures-43of47", "openimage-o"]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return openood_tree(tmp_path_factory.mktemp("openood"), IMAGENET, 1000)


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights of a network of torchvision, as a user's file."""
    path = tmp_path_factory.mktemp("weights") / "network.pt"
    torch.manual_seed(0)
    torch.save(torchvision.models.get_model(NETWORK.partition(":")[2], weights=None).state_dict(), path)
    return path


def run_of(suite: str, data: Path, weights: Path, results: Path, *more: str) -> StoredRun:
    asked = ["--suite", suite, "--backbone", NETWORK, "--checkpoint", weights, "--data-dir", data, "--results", results]
    with pytest.MonkeyPatch.context() as patch:
        draw_no_plots(patch)
        done = bench("run", *asked, "--no-stability", *more)
    assert done.exit_code == 0, done.output
    return read_stored_run(results / "runs" / suite)


@pytest.fixture(scope="module")
def whole(tree: Path, weights: Path, tmp_path_factory: pytest.TempPathFactory) -> StoredRun:
    """A run of openood-imagenet1k with its full spectrum."""
    results = tmp_path_factory.mktemp("results")
    return run_of("openood-imagenet1k", tree, weights, results, *SMALL, "--detectors", "msp", "--metrics", "extended")


def test_every_set_of_the_board_is_scored(whole: StoredRun) -> None:
    assert [record.ood_set for record in whole.records if record.detector == "msp"] == SETS
    assert {record.status for record in whole.records} == {"ok"}
    first = whole.records[0]
    assert (first.id_set, first.n_id, first.n_ood) == ("imagenet1k", 30, 6)
    normalised = "mean and deviation 0.485 0.456 0.406/0.229 0.224 0.225"
    assert first.preprocessing == f"shorter side 40 bilinear, centre 32x32; {normalised}"
    assert all("fs_auroc" in record.extended for record in whole.records)
    assert not whole.info["skipped"]


def test_the_membership_is_in_the_record_and_under_the_table(whole: StoredRun) -> None:
    table = (whole.path / "table.md").read_text()
    assert "OpenOOD v1.5's lists say which images are members" in table
    assert "is not the released one" in table  # the lists of this tree are not
    lists = {Path(path).name for files in whole.info["data"].values() for path in files}
    assert {"test_imagenet.txt", "val_imagenet.txt", "test_ssb_hard.txt", "test_imagenet_es.txt"} <= lists


def test_it_is_shown_beside_the_published_board(whole: StoredRun) -> None:
    shown = bench("table", whole.path, "--against", "openood-imagenet1k")
    assert shown.exit_code == 0
    assert "this run's network is another: torchvision[model=mobilenet_v3_small]" in " ".join(shown.output.split())
    info = json.loads((whole.path / "run.json").read_text())
    assert info["suite"]["name"] == "openood-imagenet1k"


def test_it_verifies(whole: StoredRun, tree: Path) -> None:
    checked = bench("verify", whole.path, "--data-dir", tree)
    assert checked.exit_code == 0, checked.output


def test_lists_that_are_missing_are_left_out_and_named(tree: Path, weights: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    shutil.copytree(tree, data)
    lists = data / "benchmark_imglist/imagenet"
    for name in ("test_ninco", "test_imagenet_es"):
        (lists / f"{name}.txt").unlink()
    shutil.rmtree(data / "images_largescale/ssb_hard")
    options = ["--detectors", "msp", *SMALL, "--metrics", "extended"]
    run = run_of("openood-imagenet1k", data, weights, tmp_path, *options)
    assert [record.ood_set for record in run.records] == SETS[2:]
    assert {skipped["what"] for skipped in run.info["skipped"]} == {"ssb-hard", "ninco", "imagenet-es"}
    assert "none of its 6 images" in (run.path / "table.md").read_text()
    (data / "images_largescale/inaturalist/images/0.jpg").unlink()
    more = ["--suite", "openood-imagenet1k", "--backbone", NETWORK, "--checkpoint", weights, "--results", tmp_path]
    refused = bench("run", *more, "--data-dir", data, "--detectors", "msp", "--ood", "inaturalist", "--dry-run")
    assert refused.exit_code == 2
    assert "names 1 of 6 files that are not there: 'inaturalist/images/0.jpg'" in refused.stderr


def test_corrupted_images_of_the_networks_size_stay_as_they_are(whole: StoredRun, tree: Path) -> None:
    from oodbench.benchmark.data.library import Library
    from oodbench.benchmark.data.pictures.view import PictureView
    from oodbench.benchmark.plugins.pictures import Preprocessing
    from oodbench.benchmark.plugins.specs import parse_set

    view = PictureView(Preprocessing(256, (224, 224)))
    images = Library(tree, view=view).part(parse_set("imagenet-c"), "test").images[:1]
    stored = torchvision.transforms.functional.pil_to_tensor(
        Image.open(tree / "images_largescale/imagenet_c/fog/1/0.JPEG")
    )
    assert (images[0] == stored.numpy()).all()
    resized = (
        Library(tree, view=PictureView(Preprocessing(64, (56, 56)))).part(parse_set("imagenet-c"), "test").images[:1]
    )
    assert resized.shape == (1, 3, 56, 56)
    assert any("imagenet-c: images of the size that networks get" in note for note in whole.info["notes"])


@pytest.mark.slow
def test_a_head_of_1000_classes_serves_imagenet200(weights: Path, tmp_path: Path) -> None:
    data = openood_tree(tmp_path / "data", IMAGENET_200, 200)
    more = ["--detectors", "msp", "--metrics", "extended", *SMALL]
    run = run_of("openood-imagenet200", data, weights, tmp_path, *more)
    assert [record.ood_set for record in run.records] == ["ssb-hard", "textures-43of47", "openimage-o"]
    assert all("fs_auroc" in record.extended for record in run.records)
    absent = {"ninco", "inaturalist", "imagenet200-v2", "imagenet200-c"}
    assert {skipped["what"] for skipped in run.info["skipped"]} == absent
    assert any("keeps the 200 that are the classes of 'imagenet200'" in note for note in run.info["notes"])


def test_mos_is_run_on_plain_folders(weights: Path, tmp_path: Path) -> None:
    data = tmp_path / "data"
    for place, count in {"iNaturalist/images": 4, "SUN/images": 4, "Places/images": 4}.items():
        (data / place).mkdir(parents=True)
        for k in range(count):
            picture(len(place) + k, (40 + k, 50)).save(data / place / f"{k}.jpg")
    for label in range(1000):
        folder = data / f"imagenet/val/n{label:08d}"
        folder.mkdir(parents=True)
        if label % 100 == 0:
            picture(label, (45, 40)).save(folder / f"ILSVRC2012_val_{label:08d}.JPEG")
    run = run_of("mos-imagenet", data, weights, tmp_path, "--detectors", "msp", *SMALL)
    assert [(record.ood_set, record.status) for record in run.records] == [
        ("inaturalist", "ok"), ("sun", "ok"), ("places", "ok")
    ]  # fmt: skip
    assert run.records[0].n_id == 10
    assert [skipped["what"] for skipped in run.info["skipped"]] == ["textures"]


@pytest.mark.slow
def test_the_suite_s_own_network_is_shown_beside_its_published_row(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Random weights under the name of torchvision's file in torch.hub's cache."""
    cached = tmp_path / "hub/checkpoints/resnet50-0676ba61.pth"
    cached.parent.mkdir(parents=True)
    torch.manual_seed(0)
    torch.save(torchvision.models.get_model("resnet50", weights=None).state_dict(), cached)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    draw_no_plots(monkeypatch)
    asked = ["--suite", "openood-imagenet1k", "--data-dir", tree, "--results", tmp_path, "--no-stability", *SMALL]
    done = bench("run", *asked, "--detectors", "msp,energy", "--metrics", "extended")
    assert done.exit_code == 0, done.output
    run = tmp_path / "runs/openood-imagenet1k"
    shown = " ".join(bench("table", run, "--against", "openood-imagenet1k").output.split())
    assert "compared is this run's: torchvision[model=resnet50,weights=IMAGENET1K_V1]." in shown
    assert all(number in shown for number in ("76.02", "85.23", "75.89", "89.47"))  # MSP and EBO
    assert "73.52" not in shown  # MSP of ViT-B/16
    assert "backbone" not in shown  # it is the published one
    spectrum = " ".join(bench("table", run, "--against", "openood-v1.5-imagenet1k-full-spectrum").output.split())
    assert all(number in spectrum for number in ("60.79", "72.32"))
