"""A bundle as one ONNX graph: scores in onnxruntime against ours, and detectors that cannot be written so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from oodbench.benchmark import Monitor, load_monitor
from oodbench.benchmark.errors import PluginError, UserError
from oodbench.benchmark.records.run import read_stored_run
from oodbench.benchmark.standalone.bundle import graph
from tests.standalone.bundle.bundles import digits_run, test_images, write_bundle
from tests.support import bench

RELATIVE = 1e-5
"""Of the spread of the scores."""

WRITTEN = (
    *("cadref", "caref"),
    *("cosine", "dice", "doctor", "energy", "entropy", "fdbd", "gen", "gmm", "gradnorm", "kl_matching", "mahalanobis"),
    *("max_logit", "msp", "nci", "optfs", "react", "relation", "relative_mahalanobis", "residual", "ssd"),
    *("temperature_scaling", "vim", "mahalanobis_pp", "rmds_pp", "kpca", "neco", "pnml"),
)
"""Post-hoc detectors that can be written as ONNX; docs/guides/into_service.md lists them."""


def runtime() -> Any:
    for package in ("onnx", "onnxscript"):
        pytest.importorskip(package)
    return pytest.importorskip("onnxruntime")


def outputs(path: Path, images: np.ndarray) -> dict[str, np.ndarray]:
    session = runtime().InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"images": images}), strict=True))


def require_the_monitors_scores(monitor: Monitor, images: np.ndarray, path: Path) -> None:
    """A graph's outputs are the monitor's for any number of images, in floats and in bytes."""
    expected = monitor(images)
    near = RELATIVE * monitor.spread
    difference = monitor.to_onnx(path, overwrite=True)
    assert difference is not None
    assert difference < RELATIVE
    for count in (1, 2, len(images)):
        found = outputs(path, images[:count].astype(np.float32) / np.float32(255))
        assert found["score"].dtype == np.float64
        assert np.abs(found["score"] - expected.scores[:count]).max() < near
        clear = np.abs(expected.scores[:count] - monitor.threshold) > near
        np.testing.assert_array_equal(found["accepted"][clear], expected.accepted[:count][clear])
        np.testing.assert_array_equal(found["predicted"], expected.classes[:count])
        np.testing.assert_array_equal(found["logits"].argmax(axis=1), expected.classes[:count])


@pytest.mark.slow
def test_a_graph_scores_as_the_monitor_does(vim: Monitor, run_dir: Path, tmp_path: Path) -> None:
    runtime()
    images = np.random.RandomState(3).randint(0, 256, (7, 1, 32, 32)).astype(np.uint8)
    images[0] = 0
    require_the_monitors_scores(vim, images, tmp_path / "vim.onnx")


@pytest.mark.slow
def test_a_graph_of_bytes_says_what_it_is(vim_file: Path, vim: Monitor, tmp_path: Path) -> None:
    runtime()
    import onnx

    path = tmp_path / "vim.onnx"
    vim.with_tpr(0.9).to_onnx(path, images="uint8")
    images = np.random.RandomState(4).randint(0, 256, (3, 1, 32, 32)).astype(np.uint8)
    found = outputs(path, images)
    assert np.abs(found["score"] - vim(images).scores).max() < RELATIVE * vim.spread
    about = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert about["oodbench_detector"] == "vim"
    assert about["oodbench_images"] == "uint8, (N, 1, 32, 32)"
    assert float(about["oodbench_threshold"]) == vim.with_tpr(0.9).threshold
    assert json.loads(about["oodbench_classes"]) == list("0123456789")
    with pytest.raises(UserError, match="already exists"):
        vim.to_onnx(path)
    with pytest.raises(UserError, match="float32 or uint8, not as 'float16'"):
        vim.to_onnx(path, images="float16", overwrite=True)


@pytest.mark.slow
def test_the_command_writes_both(run_dir: Path, tmp_path: Path) -> None:
    runtime()
    arguments = ("--results", run_dir.parent.parent, "--onnx", tmp_path / "x.onnx")
    done = bench("export", run_dir, "energy", tmp_path / "x.safetensors", *arguments)
    assert done.exit_code == 0, done.output
    assert "scores in onnxruntime differ from the detector's by at most" in done.stdout
    assert load_monitor(tmp_path / "x.safetensors").name == "energy"
    done = bench("export", run_dir, "energy", tmp_path / "y.safetensors", *arguments)
    assert done.exit_code == 2
    assert not (tmp_path / "y.safetensors").exists()


@pytest.mark.parametrize(
    "label, reason",
    [
        ("odin", "it runs the network itself"),
        ("mahalanobis_ensemble", "it reads pixels"),
        ("knn", "it reads the bank of training images"),
    ],
)
def test_other_scores_are_refused_with_the_reason(run_dir: Path, tmp_path: Path, label: str, reason: str) -> None:
    write_bundle(run_dir, label, tmp_path / "x.safetensors")
    monitor = load_monitor(tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=f"'{label}' cannot be written as a graph.*{reason}.*load_monitor"):
        graph.exported(monitor)


def test_without_the_extra_it_says_what_to_install(
    vim: Monitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr("importlib.import_module", absent)
    with pytest.raises(UserError, match=r"needs the package onnx: pip install 'oodbench\[onnx\]'"):
        vim.to_onnx(tmp_path / "x.onnx")
    assert graph.largest_difference(vim, b"", "float32") is None


@pytest.mark.slow
def test_a_graph_that_scores_otherwise_is_not_written(
    vim: Monitor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    runtime()
    measured: Callable[..., float | None] = lambda *_: 0.01  # noqa: E731
    monkeypatch.setattr(graph, "largest_difference", measured)
    with pytest.raises(PluginError, match=r"scores images differently from the detector, by 0\.01"):
        vim.to_onnx(tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()
    monkeypatch.setattr(graph, "largest_difference", lambda *_: 5e-5)
    vim.to_onnx(tmp_path / "x.onnx")
    assert logged == ["Scores of the ONNX graph differ from the detector's by 5e-05 of their spread."]


@pytest.mark.slow
def test_every_detector_of_the_list_can_be_written(tmp_path: Path) -> None:
    runtime()
    run_dir = digits_run(tmp_path, "all", ood_sets="greek")
    done = {record.label for record in read_stored_run(run_dir).records if record.status == "ok"}
    written = set()
    for label in sorted(done):
        found = write_bundle(run_dir, label, tmp_path / "x.safetensors")
        monitor = load_monitor(tmp_path / "x.safetensors")
        try:
            graph.write_onnx(monitor, tmp_path / "x.onnx", overwrite=True)
        except UserError:
            continue
        finally:
            (tmp_path / "x.safetensors").unlink()
        written.add(label)
        require_the_monitors_scores(monitor, test_images(found), tmp_path / "x.onnx")
    assert written & set(WRITTEN) == set(WRITTEN) & done
    assert written - set(WRITTEN) <= {"confidence", "gan_confidence", "joint"}
