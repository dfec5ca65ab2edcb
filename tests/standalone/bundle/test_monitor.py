"""Monitors score as the run did, alone and among others, whatever kind of images they get."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from oodbench.benchmark import Monitor, load_monitor
from oodbench.benchmark.errors import DataError, UserError
from oodbench.benchmark.plugins import source_version
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.records.run import read_stored_run
from tests.standalone.bundle.bundles import (
    DETECTORS,
    TESTED_ON,
    digits_run,
    plan_of,
    save_pictures,
    test_images,
    write_bundle,
)


def require_the_runs_scores(run_dir: Path, label: str, folder: Path) -> None:
    """A detector's monitor gives the run's scores bit for bit, and each image the same alone."""
    path = folder / f"{label}.safetensors"
    found = write_bundle(run_dir, label, path)
    monitor, images = load_monitor(path), test_images(found)
    stored = found.context.store.load_array(found.score.makes[0])
    assert len(images) == TESTED_ON
    np.testing.assert_array_equal(monitor.as_in_run(images), stored)
    verdicts = monitor(images)
    np.testing.assert_allclose(verdicts.scores, stored, rtol=1e-12, atol=1e-12 * np.ptp(stored))
    for row in (0, 1, TESTED_ON - 1):
        assert monitor(images[row]).scores == verdicts.scores[row]
    np.testing.assert_array_equal(monitor(images[5:40]).scores, verdicts.scores[5:40])
    np.testing.assert_array_equal(monitor(images).scores, verdicts.scores)
    logits = found.context.store.load_array(found.score.outputs.logits)
    np.testing.assert_array_equal(verdicts.classes, logits.argmax(axis=1))
    assert monitor.check() == 0


@pytest.mark.parametrize("label", DETECTORS.split(","))
def test_scores_are_those_of_the_run(run_dir: Path, label: str, tmp_path: Path) -> None:
    require_the_runs_scores(run_dir, label, tmp_path)


def test_it_multiplies_in_float32_whatever_the_process_has_set(vim: Monitor, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    features = vim.scorer.classifier.network.features

    def noted(images: Tensor) -> Tensor:
        seen.append(torch.get_float32_matmul_precision())
        found: Tensor = features(images)  # type: ignore[operator]
        return found

    monkeypatch.setattr(vim.scorer.classifier.network, "features", noted)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        for score in (vim, vim.as_in_run):
            score(np.zeros((3, 1, 32, 32), np.uint8))
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)
    assert set(seen) == {"highest"}


@pytest.mark.slow
def test_scores_of_every_detector_are_those_of_the_run(tmp_path: Path) -> None:
    run_dir = digits_run(tmp_path, "all", ood_sets="greek")
    done = {record.label for record in read_stored_run(run_dir).records if record.status == "ok"}
    assert len(done) > 30
    for label in sorted(done):
        require_the_runs_scores(run_dir, label, tmp_path)


def test_settings_that_a_rule_chose_and_weights_of_a_trained_recipe_are_kept(run_dir: Path, vim: Monitor) -> None:
    record = next(record for record in read_stored_run(run_dir).records if record.label == "vim")
    fits = [artifact for artifact in record.provenance["artifacts"] if artifact["kind"] == "fit"]
    assert vim.bundle.chosen == fits[0]["chosen"]
    assert set(vim.bundle.chosen) == {"dim"}
    assert vim.bundle.recipe == "cross_entropy[learning_rate=0.003]"
    assert [row["ood_set"] for row in vim.bundle.row] == ["greek", "patches"]
    assert vim.bundle.row[0]["metrics"] == record.metrics
    assert vim.bundle.provenance["cells"]["greek"] == record.key


def test_the_threshold_accepts_the_share_of_validation_images(vim: Monitor) -> None:
    scores = vim.bundle.validation_scores
    assert len(scores) == vim.bundle.validation.images == vim.bundle.threshold.images
    assert (scores <= vim.threshold).mean() >= 0.95
    assert (scores < vim.threshold).mean() < 0.95
    loose = vim.with_tpr(0.5)
    assert (scores <= loose.threshold).mean() >= 0.5 > (scores < loose.threshold).mean()
    with pytest.raises(Exception, match="tpr is the share of ID images to accept, above 0 and at most 1; got 95"):
        vim.with_tpr(95)


def test_validation_images_are_not_test_images_and_are_scored_as_in_service(vim: Monitor, run_dir: Path) -> None:
    found = plan_of(run_dir, "vim")
    images = found.context.library.part(found.plan.id_parts["digits"].set, "validation")
    assert vim.bundle.validation.part == "validation"
    assert vim.bundle.validation.sha256 == images.checksum
    np.testing.assert_array_equal(np.sort(vim(images.images).scores), vim.bundle.validation_scores)


def test_images_may_be_arrays_tensors_pictures_paths_and_lists(vim: Monitor, tmp_path: Path) -> None:
    paths = save_pictures(tmp_path, "digits", 3)
    pictures = [Image.open(path) for path in paths]
    arrays = np.stack([np.asarray(picture) for picture in pictures])[:, None]
    scores = vim(arrays).scores
    floats = arrays.astype(np.float64) / 255
    kinds = (
        arrays.transpose(0, 2, 3, 1),
        floats,
        floats.astype(np.float32),
        torch.from_numpy(arrays),
        torch.from_numpy(floats),
        pictures,
        paths,
        [str(path) for path in paths],
        [pictures[0], paths[1], arrays[2, 0]],
        [torch.from_numpy(image) for image in arrays],
        np.repeat(arrays, 3, axis=1),
        [picture.convert("RGB") for picture in pictures],
    )
    for kind in kinds:
        np.testing.assert_array_equal(vim(kind).scores, scores)
    assert vim(paths[0]).scores == scores[0] == vim(pictures[0]).scores == vim(arrays[0, 0]).scores
    assert [vim.class_names[k] for k in vim(arrays).classes] == [
        verdict.predicted for verdict in vim.score_files(paths)
    ]


def test_a_grey_network_converts_colour_and_says_so_once(vim: Monitor, tmp_path: Path, logged: list[str]) -> None:
    paths = save_pictures(tmp_path, "patches", 4)
    vim(paths)
    assert logged == ["The network takes grey images: 4 images were converted, colour as luma (ITU-R 601)."]
    vim(paths)
    assert len(logged) == 1


def test_one_converted_image_is_one_image(vim: Monitor, tmp_path: Path, logged: list[str]) -> None:
    vim(save_pictures(tmp_path, "patches", 1))
    assert logged == ["The network takes grey images: 1 image was converted, colour as luma (ITU-R 601)."]


def test_colour_in_floats_is_converted_as_in_bytes(vim: Monitor) -> None:
    images = np.random.RandomState(1).randint(0, 256, (6, 3, 32, 32)).astype(np.uint8)
    in_bytes, in_floats = vim(images).scores, vim(images / 255).scores
    assert np.abs(in_bytes - in_floats).max() < 0.02 * np.ptp(in_bytes)  # bytes are rounded to a grey level


@pytest.mark.parametrize(
    "images, message",
    [
        (np.zeros((2, 1, 28, 28), np.uint8), r"\(2, 1, 28, 28\) is no image for this network.*\(N, 1, 32, 32\)"),
        (np.zeros((2, 4, 32, 32), np.uint8), r"\(2, 4, 32, 32\) is no image"),
        (np.zeros((0, 1, 32, 32), np.uint8), r"\(0, 1, 32, 32\) is no image"),
        (np.full((1, 1, 32, 32), 255.0), "go from 255 to 255; expected 0 to 1"),
        (np.full((1, 1, 32, 32), -0.1), "expected 0 to 1, before any normalisation"),
        (np.full((1, 1, 32, 32), np.nan), "go from nan to nan"),
        (np.zeros((1, 1, 32, 32), np.int64), "type int64; expected uint8"),
        ([], "There are no images to score"),
        (7, "Cannot read images from a int"),
        ([3], "Image 0 cannot be used: it is a int"),
        (["nowhere.png"], "'nowhere.png' is not there"),
        (Image.new("I;16", (32, 32)), "more than 8 bits a channel"),
        ([Image.new("RGBA", (32, 32))], "transparent pixels"),
    ],
)
def test_images_that_cannot_be_used_are_one_sentence(vim: Monitor, images: object, message: str) -> None:
    with pytest.raises(DataError, match=message):
        vim(images)


def test_pictures_of_other_sizes_are_cut_to_their_centre_square(vim: Monitor) -> None:
    wide = Image.fromarray(np.random.RandomState(0).randint(0, 256, (64, 100)).astype(np.uint8))
    square = wide.crop((18, 0, 82, 64)).resize((32, 32), Image.Resampling.BILINEAR)
    assert vim(wide).scores == vim(square).scores


def test_a_block_of_one_scores_the_same_up_to_rounding(vim_file: Path, vim: Monitor) -> None:
    images = np.random.RandomState(1).randint(0, 256, (3, 1, 32, 32)).astype(np.uint8)
    fast = load_monitor(vim_file, block=1, threads=1)
    np.testing.assert_allclose(fast(images).scores, vim(images).scores, rtol=1e-4)


def test_scoring_leaves_torchs_threads_and_random_numbers_alone(vim: Monitor) -> None:
    torch.set_num_threads(2)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    vim(np.zeros((1, 32, 32), np.uint8))
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.rand(3), expected)


def test_a_monitor_is_saved_and_read_again(vim: Monitor, vim_file: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.safetensors"
    vim.save(copy)
    assert copy.read_bytes() == vim_file.read_bytes()
    with pytest.raises(UserError, match="already exists"):
        vim.save(copy)
    vim.save(copy, overwrite=True)
    images = np.random.RandomState(2).randint(0, 256, (3, 1, 32, 32)).astype(np.uint8)
    np.testing.assert_array_equal(load_monitor(copy)(images).scores, vim(images).scores)


def test_a_monitor_says_what_it_is(vim: Monitor) -> None:
    assert "vim on digits" in repr(vim)
    assert "<table>" in vim._repr_html_()
    assert "score &lt;= " in vim._repr_html_()


def test_weights_may_stay_elsewhere(run_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "hash.safetensors"
    found = write_bundle(run_dir, "energy", path, weights="hash")
    images = test_images(found)
    checkpoint = found.context.store.root / found.score.checkpoint.key.path
    with safe_open(path, framework="pt") as file:
        assert list(file.keys()) == ["validation"]
    expected = found.context.store.load_array(found.score.makes[0])
    np.testing.assert_array_equal(load_monitor(path).as_in_run(images), expected)
    elsewhere = tmp_path / "weights.safetensors"
    checkpoint.rename(elsewhere)
    try:
        with pytest.raises(UserError, match=r"only the hash of its network's weights .* is not there"):
            load_monitor(path)
        np.testing.assert_array_equal(load_monitor(path, weights=elsewhere).as_in_run(images), expected)
        with pytest.raises(UserError, match="does not hold the weights"):
            load_monitor(path, weights=path)
    finally:
        elsewhere.rename(checkpoint)


def test_code_that_gives_other_scores_is_refused(vim_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = registry.get("detector", "vim")
    # Versions are found once a command, and the run that the bundle is of may have been this process's last command.
    monkeypatch.setattr(source_version, "_command", source_version._Command())
    monkeypatch.setattr(plugin, "version", "another")
    load_monitor(vim_file)  # other code, the same scores
    score = plugin.score
    monkeypatch.setattr(plugin, "score", lambda self, batch: 2 * score(self, batch))
    with pytest.raises(UserError, match=r"other code of 'vim' .* gives images other scores .* threshold does not hold"):
        load_monitor(vim_file)


def test_a_detector_that_is_not_installed_is_one_sentence(vim_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entries = registry.entries
    monkeypatch.setattr(registry, "entries", lambda kind: {} if kind == "detector" else entries(kind))
    with pytest.raises(UserError, match=r"needs the detector 'vim', a plug-in that is not here: it came from "):
        load_monitor(vim_file)
