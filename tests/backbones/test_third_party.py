"""Backbones of other packages: torchvision, and timm if it is installed."""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oodbench.benchmark import DataError
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plugins.specs import Spec, parse_spec
from oodbench.benchmark.verify.other_checks import check_backbone
from tests.backbones.networks import SHAPE, TV, backbone, build, maps_of

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_colon_sets_the_setting_model() -> None:
    assert parse_spec("torchvision:resnet50") == Spec("torchvision", (("model", "resnet50"),))
    assert parse_spec("torchvision:vgg11[normalisation=raw]") == parse_spec(
        "torchvision[model=vgg11,normalisation=raw]"
    )
    assert str(parse_spec("timm:resnet26.bt_in1k")) == "timm[model=resnet26.bt_in1k]"
    for wrong in ("torchvision:", ":resnet18"):
        with pytest.raises(UserError, match="not of the form NAME:MODEL"):
            parse_spec(wrong)
    with pytest.raises(UserError, match="gives the setting 'model' twice"):
        parse_spec("torchvision:vgg11[model=vgg13]")
    assert backbone("torchvision").changed_settings() == {"model": "resnet18"}


def test_the_head_of_a_torchvision_network_is_separated() -> None:
    """The wrapper's logits equal those of the original network with the same weights."""
    from torchvision.models import get_model

    network = build(f"{TV}[normalisation=raw]", 5).eval()
    original = get_model("shufflenet_v2_x0_5", weights=None, num_classes=5).eval()
    names = {("fc" + n[4:]) if n.startswith("head.") else n[8:]: v for n, v in network.state_dict().items()}
    original.load_state_dict(names)
    images = torch.rand(3, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(network(images), original(images))
    plugin = backbone(TV)
    assert all(plugin.weight_name(network, n) in network.state_dict() for n in original.state_dict())
    assert not any(module._forward_hooks for module in network.modules())
    assert network.network.training is False


@pytest.mark.parametrize(
    "model, message",
    [
        ("resnet19", "torchvision has no classification network 'resnet19'"),
        ("googlenet", "returns several outputs while it trains"),
        ("mnasnet1_0", "takes no stored weights"),
        ("raft_small", "has no classification network"),
    ],
)
def test_a_wrong_model_is_one_sentence(model: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        backbone(f"torchvision:{model}")


@pytest.mark.parametrize(
    "model, shape, message",
    [
        ("squeezenet1_1", (3, 64, 64), "does not end in a linear layer on features"),
        ("vit_b_16", SHAPE, r"torchvision:vit_b_16 does not take images of 3 x 32 x 32: .*224"),
        ("resnet18", (1, 28, 28), "take images of 3 channels, got 1"),
    ],
)
def test_images_and_networks_that_do_not_fit_are_one_sentence(
    model: str, shape: tuple[int, int, int], message: str
) -> None:
    plugin = backbone(f"torchvision:{model}")
    reason = plugin.refuses(shape)
    assert reason is not None
    with torch.device("meta"), pytest.raises(DataError, match=message):
        plugin.build(10, shape)
    assert backbone("torchvision").refuses(SHAPE) is None


def test_memory_that_runs_out_says_nothing_about_the_images() -> None:
    """It is an error of its own, which the run reports as one; torch derives its type from RuntimeError."""

    def no_memory(images: Tensor) -> Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")

    plugin: Any = backbone("torchvision:resnet18")
    network = nn.Linear(2, 2)
    with pytest.raises(torch.cuda.OutOfMemoryError, match=r"20\.00 GiB"):
        plugin.tried(network, no_memory, SHAPE)
    with pytest.raises(DataError, match="does not take images of 3 x 32 x 32: mat1 and mat2"):
        plugin.tried(network, network, SHAPE)


class Stub(nn.Module):
    """The interface of timm's networks, with two stages."""

    def __init__(self, num_classes: int, in_chans: int) -> None:
        super().__init__()
        self.stem = nn.Conv2d(in_chans, 4, 3, stride=2, padding=1)
        self.stage = nn.Sequential(nn.Conv2d(4, 6, 3, stride=2, padding=1), nn.ReLU())
        self.fc = nn.Linear(6, num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        out: Tensor = self.stage(self.stem(x))
        return out

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        pooled = x.mean(dim=(2, 3))
        return pooled if pre_logits else self.fc(pooled)

    def get_classifier(self) -> nn.Module:
        return self.fc

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))


def stub(name: str, pretrained: bool, num_classes: int, in_chans: int) -> Stub:
    assert not pretrained
    return Stub(num_classes, in_chans)


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> None:
    module = SimpleNamespace(
        create_model=stub,
        is_model=lambda name: name == "stubnet",
        list_models=lambda *_, **__: [],
        models=SimpleNamespace(get_pretrained_cfg=lambda name: None),
        __spec__=object(),
    )
    monkeypatch.setitem(sys.modules, "timm", module)


@pytest.mark.usefixtures("timm")
def test_the_head_of_a_timm_network_is_separated() -> None:
    plugin, network = backbone("timm:stubnet[normalisation=half]"), build("timm:stubnet[normalisation=half]", 5).eval()
    original, images = Stub(5, 3).eval(), torch.rand(2, *SHAPE)
    original.load_state_dict(
        {n.removeprefix("network.").replace("head.", "fc."): v for n, v in network.state_dict().items()}
    )
    with torch.no_grad():
        torch.testing.assert_close(network(images), original((images - 0.5) / 0.5))
    assert plugin.blocks(network) == [network.network.stem, network.network.stage]
    assert plugin.weight_name(network, "fc.bias") == "head.bias"
    assert plugin.refuses((1, 28, 28)) is None
    with pytest.raises(UserError, match=r"timm has no network 'resnet26'"):
        backbone("timm:resnet26")


def test_without_timm_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    plugin = backbone("timm:resnet26")
    message = "needs the package timm, which is not installed: pip install 'oodbench[timm]'"
    assert message in (plugin.refuses(SHAPE) or "")
    with pytest.raises(DataError, match="needs the package timm"):
        plugin.build(10, SHAPE)


def test_a_real_network_of_timm() -> None:
    pytest.importorskip("timm", reason="timm is an optional extra: pip install 'oodbench[timm]'")
    check_backbone("timm")
    plugin = backbone("timm:resnet26")
    with torch.device("meta"):
        network = plugin.build(10, SHAPE)
    assert len(maps_of(plugin, network.eval(), torch.rand(1, *SHAPE, device="meta"))) >= 4
