"""Backbones of the OOD literature, and the blocks of every backbone."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oodbench.benchmark import Backbone
from oodbench.benchmark.backbones._normalise import STATISTICS
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plugins.registry import registry
from tests.backbones.networks import SHAPE, TV, backbone, build, maps_of, on_meta

pytestmark = pytest.mark.usefixtures("one_thread")

SMALL = {
    "resnet18": "resnet18[width=4]",
    "wrn": "wrn[depth=10,widen=1]",
    "densenet": "densenet[depth=10,growth=4]",
}


def conv(inputs: int, outputs: int, side: int = 3) -> int:
    return inputs * outputs * side * side


def sizes(classes: int) -> dict[str, int]:
    """Number of parameters, added up by hand; a batch norm has two per channel."""
    resnet, before = conv(3, 64) + 2 * 64, 64
    for width in (64, 128, 256, 512):
        resnet += conv(before, width) + 3 * conv(width, width) + 4 * 2 * width
        resnet += conv(before, width, 1) + 2 * width if before != width else 0
        before = width
    wide, before = conv(3, 16), 16
    for width in (160, 320, 640):
        for _ in range(4):
            wide += 2 * before + conv(before, width) + 2 * width + conv(width, width)
            wide += conv(before, width, 1) if before != width else 0
            before = width
    dense, before = conv(3, 24), 24
    for stage in range(3):
        for _ in range(16):
            dense += 2 * before + conv(before, 48, 1) + 2 * 48 + conv(48, 12)
            before += 12
        if stage < 2:
            dense += 2 * before + conv(before, before // 2, 1)
            before //= 2
    return {
        "resnet18": resnet + 513 * classes,
        "wrn": wide + 2 * 640 + 641 * classes,
        "densenet": dense + 2 * before + (before + 1) * classes,
    }


@pytest.mark.parametrize(
    "name, stated, features", [("resnet18", 11_173_962, 512), ("wrn", 36_479_194, 640), ("densenet", 769_162, 342)]
)
def test_it_has_as_many_parameters_as_its_layers_add_up_to(name: str, stated: int, features: int) -> None:
    network = on_meta(name)
    assert sum(weight.numel() for weight in network.parameters()) == sizes(10)[name] == stated
    assert sum(weight.numel() for weight in on_meta(name, 100).parameters()) == sizes(100)[name]
    assert f"{stated:,} parameters for K = 10" in " ".join((type(backbone(name)).__doc__ or "").split())
    assert network.head.weight.shape == (10, features)  # type: ignore[union-attr]


@pytest.mark.parametrize("text", [*SMALL.values(), TV])
@pytest.mark.parametrize("shape", [SHAPE, (3, 28, 36)])
def test_logits_are_the_head_of_the_features(text: str, shape: tuple[int, int, int]) -> None:
    network, images = build(text, 7, shape).eval(), torch.rand(2, *shape)
    with torch.no_grad():
        features, logits = network.features(images), network(images)
        assert torch.equal(network.head(features), logits)
        channels_last = images.contiguous(memory_format=torch.channels_last)
        logits_channels_last = network.to(memory_format=torch.channels_last)(channels_last)
    assert logits.shape == (2, 7)
    assert features.shape == (2, network.head.in_features)
    torch.testing.assert_close(logits_channels_last, logits, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("text", SMALL.values())
def test_features_are_pooled_globally_of_normalised_pixels(text: str) -> None:
    network, images = build(text).eval(), torch.rand(2, *SHAPE)
    mean, std = (torch.tensor(row)[:, None, None] for row in STATISTICS["cifar10"])
    raw = build(text.replace("[", "[normalisation=raw,")).eval()
    assert network.state_dict().keys() == raw.state_dict().keys()
    with torch.no_grad():
        torch.testing.assert_close(raw((images - mean) / std), network(images))
        assert torch.equal(network.features(images), network.maps(network.normalise(images)).mean(dim=(2, 3)))
        assert not torch.allclose(raw(images), network(images))


@pytest.mark.parametrize("text", SMALL.values())
def test_equal_seeds_give_equal_networks(text: str) -> None:
    one, same, other = build(text), build(text), build(text, seed=1)
    assert all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), same.state_dict().values(), strict=True))
    assert not torch.equal(one.head.weight, other.head.weight)


@pytest.mark.parametrize("name", ["wrn", "densenet"])
def test_convolutions_start_by_fan_out(name: str) -> None:
    network = build(SMALL[name].replace("widen=1", "widen=3").replace("growth=4", "growth=12"))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            wanted, count = (2 / (module.kernel_size[0] ** 2 * module.out_channels)) ** 0.5, module.weight.numel()
            assert module.weight.std().item() == pytest.approx(wanted, abs=5 * wanted / (2 * count) ** 0.5)
    assert not network.head.bias.any()


def test_the_resnet_computes_its_layers() -> None:
    """A block with a shortcut convolution and one without, computed from the weights alone."""
    network, x = build(SMALL["resnet18"]).eval(), torch.rand(2, 4, 8, 8)
    for block, stride in ((network.layer1[0], 1), (network.layer2[0], 2)):
        w = block.state_dict()

        def normal(y: Tensor, name: str, w: dict[str, Tensor] = w) -> Tensor:
            scale = w[f"{name}.weight"] / (w[f"{name}.running_var"] + 1e-5).sqrt()
            shift = w[f"{name}.bias"] - w[f"{name}.running_mean"] * scale
            return y * scale[:, None, None] + shift[:, None, None]

        out = normal(F.conv2d(x, w["conv1.weight"], stride=stride, padding=1), "bn1").clamp(min=0)
        out = normal(F.conv2d(out, w["conv2.weight"], padding=1), "bn2")
        short = normal(F.conv2d(x, w["shortcut.0.weight"], stride=stride), "shortcut.1") if stride == 2 else x
        with torch.no_grad():
            torch.testing.assert_close(block(x), (out + short).clamp(min=0))


@pytest.mark.parametrize(
    "text",
    ["wrn[depth=27]", "wrn[dropout=1.0]", "densenet[depth=12]", "densenet[reduction=0.0]", "resnet18[normalisation=x]"],
)
def test_bad_settings_are_one_sentence(text: str) -> None:
    with pytest.raises(UserError, match=r"cannot be created: .* must be "):
        backbone(text)


@pytest.mark.parametrize("text", ["wrn[depth=10,widen=1,dropout=0.3]", "densenet[depth=10,growth=4,dropout=0.3]"])
def test_dropout_acts_in_training_only(text: str) -> None:
    network, images = build(text), torch.rand(4, *SHAPE)
    with torch.no_grad():
        noisy, calm = ([network.train(mode)(images) for _ in range(2)] for mode in (True, False))
    assert not torch.equal(*noisy)
    assert torch.equal(*calm)


# Blocks

BLOCKS = {
    "small_cnn": [(32, 16), (64, 8), (64, 4)],
    "vgg13": [(64, 16), (128, 8), (256, 4), (512, 2), (512, 1)],
    "simple_cnn": [(128, 14), (256, 5)],
    "alexnet": [(64, 15), (192, 7), (256, 3)],
    "resnet18": [(64, 32), (128, 16), (256, 8), (512, 4)],
    "wrn": [(160, 32), (320, 16), (640, 8)],
    "densenet": [(216, 32), (300, 16), (342, 8)],
    "torchvision:resnet18": [(64, 16), (64, 8), (128, 4), (256, 2), (512, 1)],
    "torchvision:vgg11": [(64, 32), (128, 16), (256, 8), (512, 4), (512, 2), (512, 1)],
    TV: [(24, 16), (24, 8), (48, 4), (96, 2), (1024, 1)],
}


@pytest.mark.parametrize("text", BLOCKS)
def test_blocks_return_feature_maps_in_order(text: str) -> None:
    network = on_meta(text).eval()
    maps = maps_of(backbone(text), network, torch.rand(2, *SHAPE, device="meta"))
    assert [tuple(m.shape) for m in maps] == [(2, width, side, side) for width, side in BLOCKS[text]]


def test_every_builtin_is_tested_and_the_default_has_no_blocks() -> None:
    builtin = {name for name, entry in registry.entries("backbone").items() if entry.origin.startswith("oodbench.")}
    assert builtin - {"timm", "openclip"} == {name.partition(":")[0] for name in BLOCKS}
    assert Backbone().blocks(nn.Linear(2, 2)) == []
    assert Backbone().weight_name(nn.Linear(2, 2), "fc.weight") == "fc.weight"


def test_a_module_inside_a_block_that_reduces_the_resolution_is_not_a_block() -> None:
    """A bottleneck's first convolution has the old resolution, in a stage that reduces it."""
    plugin = backbone("torchvision:resnet50")
    network = on_meta("torchvision:resnet50")
    names = {module: name for name, module in network.named_modules()}
    assert [names[block] for block in plugin.blocks(network)] == [
        f"network.{n}" for n in ("relu", "layer1", "layer2", "layer3", "layer4")
    ]
