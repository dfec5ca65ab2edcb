"""What is evaluated in float32 is multiplied in float32, whatever the process has set for GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from oodbench.benchmark import Outputs, run
from oodbench.benchmark.backbones import small_cnn
from oodbench.benchmark.plan.precision import in_float32
from tests.plugins.networks.networks import Plain, some_images

CUDA = torch.device("cuda")
cudnn: Any = torch.backends.cudnn
products: Any = torch.backends.cuda.matmul
NEWER = hasattr(cudnn, "conv")
"""Whether torch has the settings of version 2.9."""


def settings() -> dict[str, Any]:
    """What the process has set: "none" and "ieee" are both float32, unless a setting above says otherwise."""
    if not NEWER:
        return {
            "convolutions": cudnn.allow_tf32,
            "products": torch.get_float32_matmul_precision(),
            "sums": (cudnn.deterministic, cudnn.benchmark),
        }
    parts = {"convolutions": cudnn.conv, "recurrent": cudnn.rnn, "products": products, "cudnn": cudnn}
    found = {name: part.fp32_precision.replace("none", "ieee") for name, part in parts.items()}
    return {**found, "sums": (cudnn.deterministic, cudnn.benchmark)}


def tf32_by_default() -> None:
    """As torch starts: convolutions in TF32."""


def tf32_for_products() -> None:
    torch.set_float32_matmul_precision("high")


def tf32_by_older_settings() -> None:
    products.allow_tf32 = cudnn.benchmark = True


def tf32_by_newer_settings() -> None:
    cudnn.fp32_precision = products.fp32_precision = "tf32"


def tf32_for_all() -> None:
    torch.backends.fp32_precision = "tf32"  # type: ignore[attr-defined]


OLDER_WAYS = [tf32_by_default, tf32_for_products, tf32_by_older_settings]
WAYS = [*OLDER_WAYS, tf32_by_newer_settings, tf32_for_all] if NEWER else OLDER_WAYS


@pytest.fixture(params=WAYS, ids=lambda way: way.__name__)
def rounding(request: pytest.FixtureRequest) -> Iterator[dict[str, Any]]:
    """TF32 is allowed in one of the ways; returns the settings."""
    owners = [torch.backends, cudnn, cudnn.conv, cudnn.rnn, products] if NEWER else []
    before = [owner.fp32_precision for owner in owners]
    older = torch.get_float32_matmul_precision(), cudnn.allow_tf32, cudnn.benchmark
    request.param()
    yield settings()
    for owner, precision in zip(owners, before, strict=True):
        owner.fp32_precision = precision
    torch.set_float32_matmul_precision(older[0])
    cudnn.allow_tf32, cudnn.benchmark = older[1:]


def assert_float32(found: dict[str, Any]) -> None:
    exact = (False, "highest", "ieee")
    assert {name: found[name] for name in ("convolutions", "products") if found[name] not in exact} == {}


def test_tf32_is_off_within_the_block_and_as_before_after_it(rounding: dict[str, Any]) -> None:
    with in_float32(CUDA):
        assert_float32(settings())
        assert settings()["sums"] == (True, False)
    assert settings() == rounding


def test_what_raises_leaves_the_settings_as_they_were(rounding: dict[str, Any]) -> None:
    @in_float32(CUDA)
    def fail() -> None:
        raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert settings() == rounding


def test_sums_on_the_cpu_are_left_alone(rounding: dict[str, Any]) -> None:
    with in_float32(torch.device("cpu")):
        assert settings()["sums"] == rounding["sums"]


class Observed(Plain):
    """Notes the settings in which it computes."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[dict[str, Any]] = []

    def features(self, images: Tensor) -> Tensor:
        self.seen.append(settings())
        return super().features(images)


def test_a_network_in_memory_computes_in_float32(rounding: dict[str, Any]) -> None:
    network = Observed()
    Outputs.from_model(network, some_images(6, 1))
    assert network.seen
    assert_float32(network.seen[-1])
    assert settings() == rounding


def test_jobs_compute_in_float32(
    rounding: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    seen: list[dict[str, Any]] = []
    original = small_cnn.SmallCNNNetwork.features

    def features(self: small_cnn.SmallCNNNetwork, images: Tensor) -> Tensor:
        seen.append(settings())
        return original(self, images)

    monkeypatch.setattr(small_cnn.SmallCNNNetwork, "features", features)
    suite: dict[str, Any] = {"id_sets": "digits", "ood_sets": "greek", "epochs": 1, "limit_train": 60, "limit_test": 20}
    run("msp,odin", results=tmp_path, device="cpu", threads=1, stability=False, **suite)
    assert len(seen) > 4
    for one in seen:
        assert_float32(one)
    assert settings() == rounding
