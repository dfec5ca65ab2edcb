"""What cannot be exported or read is one sentence: which file or cell, what is wrong, what to do."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from oodbench.benchmark import Batch, Detector, FitData, Monitor, load_monitor
from oodbench.benchmark.errors import OodbenchError, UserError
from oodbench.benchmark.plugins.inputs import Classifier
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.records.run import read_stored_run
from oodbench.benchmark.standalone.bundle import file as bundle_file
from oodbench.benchmark.standalone.bundle.export import export
from oodbench.benchmark.standalone.bundle.scoring import probe_images
from tests.standalone.bundle.bundles import BACKBONE, TRAINING, digits_run
from tests.support import bench, cut_last_byte, run_suite, write_suite


def test_no_byte_can_change_unnoticed(vim_file: Path, tmp_path: Path) -> None:
    content, damaged = vim_file.read_bytes(), tmp_path / "damaged.safetensors"
    header = struct.unpack("<Q", content[:8])[0]
    places = [0, 7, 8, 9, 60, *range(100, 8 + header, 997), 8 + header - 1, *range(8 + header, len(content), 4999)]
    for place in [*places, len(content) - 1]:
        changed = bytearray(content)
        changed[place] ^= 1
        damaged.write_bytes(changed)
        with pytest.raises(UserError, match=r"damaged|not a bundle|newer than"):
            load_monitor(damaged)
    damaged.write_bytes(content)
    load_monitor(damaged)


def test_a_file_that_was_cut_is_one_sentence(vim_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "cut.safetensors"
    path.write_bytes(vim_file.read_bytes())
    cut_last_byte(path)
    with pytest.raises(UserError, match=r"'.*cut.safetensors' is not a bundle: it is cut short\. Expected a file that"):
        load_monitor(path)
    path.write_bytes(vim_file.read_bytes()[:300])
    with pytest.raises(UserError, match="is not a bundle: it is cut short"):
        load_monitor(path)


@pytest.mark.parametrize(
    "content, problem",
    [
        (b"", "not in safetensors format"),
        (b"PK\x03\x04 a zip, perhaps", "not in safetensors format"),
        (b"\x05\x00\x00\x00\x00\x00\x00\x00{nope", "its header is damaged"),
    ],
)
def test_other_files_are_not_bundles(content: bytes, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "other.bin"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"is not a bundle: .*{problem}"):
        load_monitor(path)


def test_weights_are_no_bundle_and_a_missing_file_is_said(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.zeros(2)}, path)
    with pytest.raises(UserError, match="is a safetensors file, but not a bundle"):
        load_monitor(path)
    with pytest.raises(UserError, match=r"Cannot read .*No such file"):
        load_monitor(tmp_path / "nowhere.safetensors")


def test_a_newer_schema_asks_for_an_upgrade(vim_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundle_file, "SCHEMA", bundle_file.SCHEMA + 1)
    path = tmp_path / "newer.safetensors"
    load_monitor(vim_file).save(path)
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"has schema 2, newer than 1, the newest .* Upgrade oodbench"):
        load_monitor(path)


def test_a_document_without_its_fields_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "empty.safetensors"
    bundle_file.write(path, {"state": {"dict": []}}, {"validation": torch.zeros(3)})
    with pytest.raises(UserError, match="does not describe a detector: it lacks 'threshold'"):
        load_monitor(path)


@pytest.mark.parametrize(
    "detector, options, message",
    [
        ("wim", {}, "The run 'tiny' has no detector 'wim'. Did you mean 'vim'"),
        ("vim", {"id_set": "glyphs"}, "no ID set 'glyphs' with 'vim', only digits"),
        ("vim", {"seed": 3}, "no seed 3 of 'vim' on 'digits', only 0"),
        ("vim", {"tpr": 95}, "tpr is the share of ID images to accept, above 0 and at most 1; got 95"),
        ("vim", {"weights": "some"}, "weights must be 'include' or 'hash', got 'some'"),
    ],
)
def test_what_the_run_has_not_cannot_be_exported(
    run_dir: Path, tmp_path: Path, detector: str, options: dict[str, object], message: str
) -> None:
    with pytest.raises(UserError, match=message):
        export(run_dir, detector, tmp_path / "x.safetensors", **options)  # type: ignore[arg-type]
    assert not list(tmp_path.iterdir())


def test_an_existing_file_is_kept_unless_asked_for(run_dir: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    path.write_text("mine")
    with pytest.raises(UserError, match=r"already exists. Choose another name, or add --overwrite"):
        export(run_dir, "msp", path)
    assert path.read_text() == "mine"
    with pytest.raises(UserError, match=r"is a folder. Name the file to write"):
        export(run_dir, "msp", tmp_path)
    export(run_dir, "msp", path, overwrite=True)
    assert load_monitor(path).name == "msp"
    with pytest.raises(OodbenchError, match="Cannot write"):
        export(run_dir, "msp", path / "below" / "x.safetensors")


class Failing(Detector):
    """Fails in fit."""

    name = "test_failing"
    version = "1"

    def fit(self, classifier: Classifier, data: FitData) -> None:
        raise RuntimeError("it broke")

    def score(self, batch: Batch) -> torch.Tensor:
        return batch.logits[:, 0]


@pytest.mark.slow
def test_failed_cells_seeds_and_id_sets(
    tmp_path: Path, register: Callable[[str, type[Detector]], None], logged: list[str]
) -> None:
    register("test_failing", Failing)
    matrix = "".join(f'\n[[id]]\nset = "{name}"\nood = [{{ set = "greek" }}]\n' for name in ("digits", "glyphs"))
    suite = write_suite(tmp_path, matrix, backbone=BACKBONE, training=TRAINING.replace("epochs = 2", "epochs = 1"))
    run_dir = run_suite(
        suite, "msp,energy,energy[temperature=2],test_failing", seeds=(4, 2), limit_train=100, limit_test=20
    ).path
    target = tmp_path / "x.safetensors"
    with pytest.raises(UserError, match=r"The run has 'msp' on 2 ID sets: digits, glyphs. Choose one with --id"):
        export(run_dir, "msp", target)
    with pytest.raises(UserError, match="'test_failing' has no numbers on 'digits' in this run, as it was failed: "):
        export(run_dir, "test_failing", target, id_set="digits")
    logged.clear()
    assert export(run_dir, "msp", target, id_set="glyphs").provenance["seed"] == 4
    assert "The run has several seeds: seed 4 is exported; --seed chooses another (2)." in logged
    first = load_monitor(target).bundle.weights.sha256
    second = export(run_dir, "msp", target, id_set="glyphs", seed=2, overwrite=True)
    assert second.provenance["seed"] == 2
    assert second.weights.sha256 != first
    hot = export(run_dir, "energy[temperature=2]", target, id_set="glyphs", overwrite=True)
    assert hot.detector.spec == "energy[temperature=2.0]"


@pytest.mark.slow
def test_a_run_without_its_artifacts_or_with_other_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir = digits_run(tmp_path, "energy,react", limit_train=200)
    target = tmp_path / "x.safetensors"
    with monkeypatch.context() as patch:
        patch.setattr(registry.get("detector", "energy"), "version", "another")
        with pytest.raises(UserError, match=r"'energy' in the run 'tiny' come from other code .* then export"):
            export(run_dir, "energy", target)
    for path in (tmp_path / "results" / "cache" / "fit").glob("react*"):
        path.unlink()
    with pytest.raises(OodbenchError, match=r"'fit/react-.*' is missing from the store. Run the same command again"):
        export(run_dir, "react", target)
    for path in (tmp_path / "results" / "cache" / "checkpoint").glob("*"):
        path.unlink()
    with pytest.raises(OodbenchError, match=r"'checkpoint/.*' is missing from the store. Run the same command again"):
        export(run_dir, "energy", target)
    assert not target.exists()


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu:9", "abacus"])
def test_a_device_that_is_not_there_is_the_reason(run_dir: Path, tmp_path: Path, device: str) -> None:
    result = bench("export", run_dir, "msp", tmp_path / "x.safetensors", "--device", device)
    assert result.exit_code == 2
    assert result.stderr.startswith(("Error: Device 'cpu:9' is not available: ", "Error: Unknown device 'abacus'. "))
    assert "other code" not in result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_given_outputs_and_scores_have_nothing_to_export(tmp_path: Path) -> None:
    random, outputs, scores = np.random.RandomState(0), tmp_path / "outputs", tmp_path / "scores"
    for folder in (outputs, scores):
        (folder / "ood").mkdir(parents=True)
    for name in ("id_train", "id_val", "id_test", "ood/far"):
        labels = np.arange(40) % 3
        logits = 5 * np.eye(3)[labels] * (name != "ood/far") + random.normal(size=(40, 3))
        np.savez(outputs / f"{name}.npz", logits=logits, labels=labels)
    for name, centre in (("id_test", 0), ("ood/far", 4)):
        np.save(scores / f"{name}.npy", random.normal(centre, size=50))
    results = ("--results", tmp_path / "results", "--quiet")
    for name, options in (("a", ("--outputs", outputs, "--detectors", "energy")), ("b", ("--scores", scores))):
        done = bench("run", *options, "--name", name, *results)
        assert done.exit_code == 0, done.output
    target = tmp_path / "x.safetensors"
    with pytest.raises(UserError, match="'energy' cannot be exported: the run has the outputs of a network, and not"):
        export("a", "energy", target, results=tmp_path / "results")
    row = read_stored_run(tmp_path / "results" / "runs" / "b").records[0].label
    with pytest.raises(UserError, match=r"are scores that were given to the run \(--scores\): there is no code"):
        export("b", row, target, results=tmp_path / "results")


def test_the_command_says_so_with_exit_code_2(run_dir: Path, tmp_path: Path) -> None:
    results = run_dir.parent.parent
    done = bench("export", run_dir, "wim", tmp_path / "x", "--results", results)
    assert done.exit_code == 2
    assert "has no detector 'wim'" in done.stderr
    done = bench("score", tmp_path / "nowhere", tmp_path)
    assert done.exit_code == 2
    assert "Cannot read" in done.stderr


def test_probe_images_are_always_the_same(vim: Monitor) -> None:
    images = probe_images((1, 32, 32))
    assert images[0, 0, 0, :4].tolist() == [172, 47, 117, 192]
    assert len(vim.bundle.probe) == len(images)
    np.testing.assert_array_equal(vim(images).scores, vim.bundle.probe)
