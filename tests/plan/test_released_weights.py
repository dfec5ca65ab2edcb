"""Files of released classifiers: names and shapes as they are published, made here, with random numbers."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oodbench.benchmark import Backbone
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plan.weights.file import read_weights
from oodbench.benchmark.plan.weights.match import Match, match_weights
from oodbench.benchmark.plugins.specs import create, parse_spec

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (3, 32, 32)
Weights = dict[str, Tensor]


def matched(text: str, content: Any, folder: Path, classes: int, shape: tuple[int, int, int] = SHAPE) -> Any:
    """The match of a file's content with a backbone, and the network with it loaded."""
    backbone: Backbone = create("backbone", parse_spec(text))
    network: Any = backbone.build(classes, shape)
    torch.save(content, folder / "w.pth")
    match: Match = match_weights(read_weights(folder / "w.pth"), backbone, network)
    network.load_state_dict(match.tensors)
    return match, network.eval()


def torchvision_resnet18(classes: int, width_of_stem: int = 7) -> nn.Module:
    """torchvision's ResNet-18; with a stem of 3, as CIFAR scripts change it: 3x3 at stride 1, and no pooling."""
    from torchvision.models import resnet18

    torch.manual_seed(0)
    network: nn.Module = resnet18(weights=None, num_classes=classes)
    if width_of_stem == 3:
        network.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        network.maxpool = nn.Identity()
    for module in network.modules():  # statistics that are not 0 and 1, so that a wrong place is seen
        if isinstance(module, nn.BatchNorm2d):
            module.get_buffer("running_mean").uniform_(-0.1, 0.1)
            module.get_buffer("running_var").uniform_(0.9, 1.1)
    return network.eval()


def assert_same_logits(network: nn.Module, original: nn.Module, shape: tuple[int, int, int] = SHAPE) -> None:
    images = torch.rand(2, *shape)
    with torch.no_grad():
        logits, expected = network(images), original(images)
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()


def test_torchvision_names_with_a_stem_for_small_images_fit_resnet18(tmp_path: Path) -> None:
    """`downsample` is the shortcut of this package's network, and `fc` its head."""
    original = torchvision_resnet18(10, width_of_stem=3)
    _, network = matched("resnet18[normalisation=raw]", original.state_dict(), tmp_path, 10)
    assert_same_logits(network, original)


@pytest.mark.parametrize(
    "classes, head, shortcut", [(10, "fc.", "shortcut"), (100, "fc.", "downsample"), (10, "linear.", "shortcut")]
)
def test_releases_of_openood_for_cifar_fit_resnet18(tmp_path: Path, classes: int, head: str, shortcut: str) -> None:
    """ResNet18_32x32: `conv1`, `bn1`, `layerX.Y.convZ`, `layerX.0.shortcut.0`, `fc`."""
    original = torchvision_resnet18(classes, width_of_stem=3)
    weights = {
        name.replace("downsample", shortcut).replace("fc.", head): value
        for name, value in original.state_dict().items()
    }
    assert f"layer2.0.{shortcut}.0.weight" in weights
    _, network = matched("resnet18[normalisation=raw]", weights, tmp_path, classes)
    assert_same_logits(network, original)


@pytest.mark.parametrize("model, classes", [("resnet18", 200), pytest.param("resnet50", 1000, marks=pytest.mark.slow)])
def test_releases_of_openood_for_imagenet_fit_torchvision(tmp_path: Path, model: str, classes: int) -> None:
    """ResNet18_224x224 and ResNet50 have torchvision's names; data parallel training puts `module.` before them."""
    from torchvision.models import get_model

    original = get_model(model, weights=None, num_classes=classes).eval()
    weights = {f"module.{name}": value for name, value in original.state_dict().items()}
    _, network = matched(f"torchvision:{model}[normalisation=raw]", weights, tmp_path, classes, (3, 64, 64))
    assert_same_logits(network, original, (3, 64, 64))


def averaged(network: nn.Module) -> nn.Module:
    """The same architecture with other numbers, as an average of weights is."""
    other = deepcopy(network)
    with torch.no_grad():
        for value in other.parameters():
            value.mul_(1.5)
    return other


def reference(raw: Weights, average: Weights) -> dict[str, Any]:
    """What torchvision's reference scripts write with --model-ema."""
    ema = {"n_averaged": torch.tensor(7), **{f"module.{name}": value for name, value in average.items()}}
    return {"model": raw, "optimizer": {"state": {}}, "lr_scheduler": {}, "epoch": 3, "model_ema": ema}


WRITTEN: dict[str, tuple[Callable[[Weights, Weights], Any], str]] = {
    "torchvision": (reference, "'model_ema.module' would fit as well"),
    "timm": (
        lambda raw, average: {"epoch": 1, "arch": "x", "state_dict": raw, "state_dict_ema": average, "version": 2},
        "'state_dict_ema' would fit as well",
    ),
}


@pytest.mark.parametrize("script", WRITTEN)
@pytest.mark.slow
def test_averaged_weights_beside_the_raw_ones_are_named(tmp_path: Path, script: str) -> None:
    """The raw weights are taken; the note says how to take the others."""
    raw = torchvision_resnet18(10, width_of_stem=3)
    write, would_fit = WRITTEN[script]
    content = write(raw.state_dict(), averaged(raw).state_dict())
    match, network = matched("resnet18[normalisation=raw]", content, tmp_path, 10)
    assert_same_logits(network, raw)
    assert would_fit in match.note
    assert "(to evaluate those, save those alone in a file)" in match.note


@pytest.mark.parametrize(
    "content",
    [
        lambda weights: {"n_averaged": torch.tensor(7), **{f"module.{n}": v for n, v in weights.items()}},
        lambda weights: {
            "model_ema": {"n_averaged": torch.tensor(7), **{f"module.{n}": v for n, v in weights.items()}}
        },
        lambda weights: {"state_dict_ema": weights, "epoch": 2},
    ],
    ids=["alone", "model_ema", "state_dict_ema"],
)
def test_averaged_weights_alone_are_taken(tmp_path: Path, content: Callable[[Weights], Any]) -> None:
    original = averaged(torchvision_resnet18(10, width_of_stem=3))
    match, network = matched("resnet18[normalisation=raw]", content(original.state_dict()), tmp_path, 10)
    assert_same_logits(network, original)
    assert not match.note


PORT = {
    "conv_stem": "_conv_stem",
    "bn1": "_bn0",
    "conv_head": "_conv_head",
    "bn2": "_bn1",
    "classifier": "_fc",
}


def names_of_the_port(network: Any) -> Weights:
    """The state dict of a timm EfficientNet under the names of efficientnet_pytorch, written out independently."""
    found: Weights = {}
    number = 0
    for stage, blocks in enumerate(network.blocks):
        for place, block in enumerate(blocks):
            order = ["_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2"]
            layers = [
                name for name, _ in block.named_children() if name.startswith(("conv", "bn")) and "drop" not in name
            ]
            layers = [name for name in ("conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3") if name in layers]
            if len(layers) == 4:  # without expansion: depthwise first
                layers, order = ["conv_dw", "bn1", "conv_pw", "bn2"], order[2:]
            for own, theirs in zip(layers, order, strict=True):
                for name, value in getattr(block, own).state_dict().items():
                    found[f"_blocks.{number}.{theirs}.{name}"] = value
            if getattr(block, "se", None) is not None and hasattr(block.se, "conv_reduce"):
                for own, theirs in (("conv_reduce", "_se_reduce"), ("conv_expand", "_se_expand")):
                    for name, value in getattr(block.se, own).state_dict().items():
                        found[f"_blocks.{number}.{theirs}.{name}"] = value
            number += 1
            assert place == number - 1 - sum(len(blocks) for blocks in network.blocks[:stage])
    for own, theirs in PORT.items():
        found |= {f"{theirs}.{name}": value for name, value in getattr(network, own).state_dict().items()}
    return found


@pytest.mark.parametrize(
    "model, tensors", [("tf_efficientnet_lite0", 296), ("tf_efficientnet_lite2", 0), ("efficientnet_b0", 0)]
)
def test_efficientnets_of_another_port_fit_timm(tmp_path: Path, model: str, tensors: int) -> None:
    timm = pytest.importorskip("timm", reason="timm is an optional extra")
    torch.manual_seed(0)
    original = timm.create_model(model, num_classes=13).eval()
    weights = names_of_the_port(original)
    assert len(weights) == len(original.state_dict()) == (tensors or len(weights))
    assert {"_blocks.0._depthwise_conv.weight", "_blocks.1._expand_conv.weight", "_fc.bias"} <= weights.keys()
    _, network = matched(f"timm:{model}[normalisation=raw]", weights, tmp_path, 13, (3, 64, 64))
    assert_same_logits(network, original, (3, 64, 64))


def test_positions_for_another_size_are_one_sentence(tmp_path: Path) -> None:
    """A transformer that was trained at one --crop and is evaluated at another."""
    timm = pytest.importorskip("timm", reason="timm is an optional extra")
    weights = timm.create_model("vit_tiny_patch16_224", num_classes=5, img_size=64).state_dict()
    with pytest.raises(
        UserError, match=r"has positions for images of another size \('network.pos_embed' \(1, 17, 192\)"
    ):
        matched("timm:vit_tiny_patch16_224", weights, tmp_path, 5, (3, 96, 96))
    _, network = matched("timm:vit_tiny_patch16_224", weights, tmp_path, 5, (3, 64, 64))
    assert network.head.out_features == 5


def test_weights_of_another_architecture_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"does not fit backbone 'torchvision': it lacks .*; it has beside them"):
        matched("torchvision:mobilenet_v2", torchvision_resnet18(10).state_dict(), tmp_path, 10)
