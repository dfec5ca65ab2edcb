"""Runs on a GPU: every detector works there, from the training to the monitor.

On the simulated GPU, results are the CPU's, byte for byte; on a real one they are close to them where the network is
the same, and trainings may end elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from oodbench.benchmark import Outputs, Record, Run, load_monitor, run
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.records.paths import cache_of
from tests.plugins.networks.networks import K, Plain, made, some_images
from tests.standalone.bundle.bundles import digits_run, test_images, write_bundle

ELSEWHERE = {"mcm", "gl_mcm", "neglabel", "mc_dropout"}
"""Detectors that need a network of images and texts, or one with dropout, which has a test of its own."""

AT_LEAST = 80
"""Detectors that are run; more as they are added."""

RARER = (
    "csi[samples=2]@csi[form=labelled]",
    "csi[statistic=softmax,samples=1]@csi[form=labelled,shift=permutation]",
    "adascale[variant=L]",
    "godin@godin[similarity=inner]",
    "godin@godin[similarity=euclidean]",
    "mixoe@mixoe[mix=mixup]",
    "ascood@ascood[synthesis=shuffle,alpha_end=0.1]",
    "energy_finetune@energy_finetune[m_in=-5,m_out=-3]",
    "learned_confidence@learned_confidence[cutout=8]",
    "gram[by_softmax=true]",
    "mahalanobis_ensemble[epsilon=0.01]",
    "mahalanobis_ensemble[validation=outliers]",
    "catalyst[statistic=std]",
    "deep_ensemble[statistic=mutual_information]",
    "pixmix@pixmix[overlapping=true]",
    "msp@standard",
    "outlier_exposure@outlier_exposure[like=one_cycle]",
    "rankfeat[last=1]",
    "dropout[statistic=entropy]",
)
"""Settings and trainings that are not the default, and that compute something else on the device."""

POST_HOC = sorted(
    name
    for name, entry in registry.entries("detector").items()
    if entry.load().recipe is None and not entry.load().reads and name not in ELSEWHERE
)


def digits(folder: Path, device: str, detectors: str, **options: Any) -> Run:
    """A run on few images; `options` that are None are left out."""
    fixed = {"suite": "digits-full", "id_sets": "digits", "ood_sets": "greek", "seeds": (0,), "threads": 1}
    given = {"epochs": 1, "limit_test": 200, "precision": "float32", "stability": False}
    asked = {**fixed, **given, "results": folder / device, "device": device, **options}
    return run(detectors, **{name: value for name, value in asked.items() if value is not None})


def by_cell(result: Run) -> dict[str, Record]:
    return {f"{record.label} {record.ood_set}": record for record in result.records}


def assert_same(gpu: str, both: Iterable[Run], tolerance: float | None = None) -> int:
    """Compare the cells of a run on the GPU and of one on the CPU; returns how many were scored.

    `tolerance`: by how much AUROCs may differ on a real GPU; None for any.
    """
    found, expected = map(by_cell, both)
    assert {label: (one.status, one.reason) for label, one in found.items()} == {
        label: (one.status, one.reason) for label, one in expected.items()
    }
    scored = [label for label, one in expected.items() if one.status == "ok"]
    if gpu == "simulated":
        assert {label: found[label].metrics for label in scored} == {label: expected[label].metrics for label in scored}
    elif tolerance is not None:
        one, other = (np.array([cells[label].metrics["auroc"] for label in scored]) for cells in (found, expected))
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance)
    return len(scored)


@pytest.fixture
def network(tmp_path: Path) -> str:
    """The weights of a network that was trained on the CPU."""
    trained = digits(tmp_path / "trained", "cpu", "msp", epochs=3)
    return str(cache_of(trained.path, tmp_path / "trained" / "cpu") / trained.records[0].artifacts["checkpoint"])


def test_every_detector_trains_and_scores(tmp_path: Path, gpu: str) -> None:
    names = ",".join(sorted(set(registry.entries("detector")) - ELSEWHERE))
    assert assert_same(gpu, (digits(tmp_path, device, names) for device in ("cuda", "cpu"))) >= AT_LEAST


def test_rarer_settings_train_and_score(tmp_path: Path, gpu: str) -> None:
    both = (digits(tmp_path, device, ",".join(RARER)) for device in ("cuda", "cpu"))
    assert assert_same(gpu, both) == len(RARER)


def test_dropout_is_sampled(tmp_path: Path, gpu: str) -> None:
    options = {"backbone": "vgg13", "limit_train": 100, "limit_test": 20}
    assert assert_same(gpu, (digits(tmp_path, device, "mc_dropout", **options) for device in ("cuda", "cpu"))) == 1


def test_the_same_network_scores_the_same(tmp_path: Path, gpu: str, network: str) -> None:
    options = {"checkpoint": network, "epochs": None, "precision": None}
    both = (digits(tmp_path, device, ",".join(POST_HOC), **options) for device in ("cuda", "cpu"))
    assert assert_same(gpu, both, tolerance=0.01) > 40


@pytest.mark.parametrize("backbone", ["densenet[depth=10,growth=4]", "small_cnn"])
def test_networks_train_in_bfloat16_and_evaluate_in_float32(tmp_path: Path, gpu: str, backbone: str) -> None:
    result = digits(tmp_path, "cuda", "msp,odin,gram", backbone=backbone, precision="auto")
    assert {record.status for record in result.records} == {"ok"}
    capable = torch.cuda.get_device_capability() >= (8, 0)
    assert {record.training["precision"] for record in result.records} == {"bfloat16" if capable else "float32"}
    made = [artifact for record in result.records for artifact in record.provenance["artifacts"]]
    assert {artifact["device"] for artifact in made} == {"cuda"}
    assert max(artifact["peak_device_memory"] or 0 for artifact in made) > 0
    logits = [np.load(path) for path in cache_of(result.path, tmp_path / "cuda").glob("logits/*.npy")]
    assert logits
    assert not any((one.astype(np.float32) == torch.from_numpy(one).bfloat16().float().numpy()).all() for one in logits)


@pytest.mark.parametrize(
    "detectors, options",
    [
        ("msp,vim,odin", {"recipe": "linear_probe"}),
        ("odin,knn,react", {"protocol": "leave_one_out", "ood_sets": "greek,uniform"}),
    ],
)
def test_heads_are_fitted_and_settings_are_tuned(
    tmp_path: Path, gpu: str, network: str, detectors: str, options: dict[str, str]
) -> None:
    given = {"checkpoint": network, "epochs": None, "precision": None, **options}
    both = (digits(tmp_path, device, detectors, **given) for device in ("cuda", "cpu"))
    assert assert_same(gpu, both, tolerance=0.02) == 3 * len(options)


def test_a_gpu_may_be_named_by_its_number(tmp_path: Path, gpu: str) -> None:
    result = digits(tmp_path, "cuda:0", "msp,odin", results=tmp_path / "results")
    assert {record.status for record in result.records} == {"ok"}
    made = [artifact for record in result.records for artifact in record.provenance["artifacts"]]
    assert {artifact["device"] for artifact in made} == {"cuda:0"}


@pytest.mark.parametrize("label", ["msp", "vim", "knn", "gram", "odin"])
def test_a_monitor_scores_on_either_device(tmp_path: Path, gpu: str, label: str) -> None:
    run_dir = digits_run(tmp_path, label, device="cuda")
    bundle = tmp_path / "bundle.safetensors"
    images = test_images(write_bundle(run_dir, label, bundle))[:40]
    on_gpu, on_cpu = (load_monitor(bundle, device=device)(images) for device in ("cuda", "cpu"))
    assert on_gpu.scores.std() > 0
    tolerance = 0.0 if gpu == "simulated" else 1e-3
    np.testing.assert_allclose(on_gpu.scores, on_cpu.scores, rtol=tolerance, atol=tolerance)


def test_a_network_in_memory_stays_on_its_device(tmp_path: Path, gpu: str) -> None:
    images, labels = some_images(60, 1), torch.arange(60) % K
    sets: dict[str, Any] = {
        "id_train": (images, labels),
        "id_test": DataLoader(TensorDataset(some_images(40, 2), labels[:40]), batch_size=16),
        "ood": {"dark": some_images(30, 3) / 4},
    }
    network = made(Plain).to("cuda")
    found = Outputs.from_model(network, **sets)
    expected = Outputs.from_model(made(Plain), **sets)
    assert next(network.parameters()).device.type == "cuda"
    found.save(tmp_path / "found")
    expected.save(tmp_path / "expected")
    for path in sorted((tmp_path / "expected").rglob("*.npy")):
        np.testing.assert_allclose(
            np.load(tmp_path / "found" / path.relative_to(tmp_path / "expected")), np.load(path), rtol=1e-4, atol=1e-6
        )
    result = run("msp,energy,vim[dim=3]", model=network, results=tmp_path, threads=1, **sets)
    assert {record.status for record in result.records} == {"ok"}


@pytest.mark.gpu
def test_convolutions_of_a_pass_are_not_rounded_to_tf32() -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch finds no CUDA device")
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 64, 3), torch.nn.Conv2d(64, 64, 3), torch.nn.AdaptiveAvgPool2d(1))
    network.append(torch.nn.Flatten()).append(torch.nn.Linear(64, 5))
    images = torch.rand(32, 3, 32, 32)
    with torch.no_grad():
        exact = network.double()(images.double()).numpy()
    found = Outputs.from_model(network.float().to("cuda"), images).logits
    assert np.abs(found - exact).max() < 2e-6 * np.abs(exact).max()
