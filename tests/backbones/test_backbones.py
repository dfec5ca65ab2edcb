"""Networks of the OOD literature, those of other packages, and what every backbone says of its blocks."""

from __future__ import annotations

import importlib.util
import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oodbench.benchmark import Backbone, DataError
from oodbench.benchmark.backbones._normalise import STATISTICS
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import Spec, create, parse_spec
from oodbench.benchmark.verify.plugin_checks import check_backbone

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (3, 32, 32)
SMALL = {
    "resnet18": "resnet18[width=4]",
    "wrn": "wrn[depth=10,widen=1]",
    "densenet": "densenet[depth=10,growth=4]",
}
TV = "torchvision:shufflenet_v2_x0_5"


def backbone(text: str) -> Backbone:
    made: Backbone = create("backbone", parse_spec(text))
    return made


def build(text: str, classes: int = 10, shape: tuple[int, int, int] = SHAPE, seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return backbone(text).build(classes, shape)


def on_meta(text: str, classes: int = 10) -> nn.Module:
    with torch.device("meta"):
        return backbone(text).build(classes, SHAPE)


def conv(inputs: int, outputs: int, side: int = 3) -> int:
    return inputs * outputs * side * side


def sizes(classes: int) -> dict[str, int]:
    """Parameters, added up by hand: a batch norm has two a channel."""
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
def test_features_head_and_logits_belong_together(text: str, shape: tuple[int, int, int]) -> None:
    network, images = build(text, 7, shape).eval(), torch.rand(2, *shape)
    with torch.no_grad():
        features, logits = network.features(images), network(images)
        assert torch.equal(network.head(features), logits)
        laid = network.to(memory_format=torch.channels_last)(images.contiguous(memory_format=torch.channels_last))
    assert logits.shape == (2, 7)
    assert features.shape == (2, network.head.in_features)
    torch.testing.assert_close(laid, logits, rtol=1e-3, atol=1e-4)


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
    """A block with a shortcut and one without, from the weights alone."""
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
    with pytest.raises(UserError, match=r"cannot be set up: .* must be "):
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


def maps_of(plugin: Backbone, network: Any, images: Tensor) -> list[Tensor]:
    """What the blocks return, by hooks, in the order in which they do."""
    seen: list[Tensor] = []
    hooks = [block.register_forward_hook(lambda *call: seen.append(call[2])) for block in plugin.blocks(network)]
    with torch.no_grad():
        network.features(images)
    for hook in hooks:
        hook.remove()
    return seen


@pytest.mark.parametrize("text", BLOCKS)
def test_blocks_return_feature_maps_in_order(text: str) -> None:
    network = on_meta(text).eval()
    maps = maps_of(backbone(text), network, torch.rand(2, *SHAPE, device="meta"))
    assert [tuple(m.shape) for m in maps] == [(2, width, side, side) for width, side in BLOCKS[text]]


def test_every_builtin_has_its_blocks_here_and_a_stranger_has_none() -> None:
    builtin = {name for name, entry in registry.entries("backbone").items() if entry.origin.startswith("oodbench.")}
    assert builtin - {"timm"} == {name.partition(":")[0] for name in BLOCKS}
    assert Backbone().blocks(nn.Linear(2, 2)) == []
    assert Backbone().weight_name(nn.Linear(2, 2), "fc.weight") == "fc.weight"


def test_a_block_inside_the_next_one_is_none() -> None:
    """A bottleneck's first convolution works at the old resolution, in a stage that goes on to the next."""
    plugin = backbone("torchvision:resnet50")
    network = on_meta("torchvision:resnet50")
    names = {module: name for name, module in network.named_modules()}
    assert [names[block] for block in plugin.blocks(network)] == [
        f"network.{n}" for n in ("relu", "layer1", "layer2", "layer3", "layer4")
    ]


# Networks of other packages


def test_a_colon_is_short_for_the_setting_model() -> None:
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


def test_a_network_of_torchvision_is_taken_apart() -> None:
    """The wrapper's logits are those of the package's own network with the same weights."""
    from torchvision.models import get_model

    network = build(f"{TV}[normalisation=raw]", 5).eval()
    own = get_model("shufflenet_v2_x0_5", weights=None, num_classes=5).eval()
    names = {("fc" + n[4:]) if n.startswith("head.") else n[8:]: v for n, v in network.state_dict().items()}
    own.load_state_dict(names)
    images = torch.rand(3, *SHAPE)
    with torch.no_grad():
        torch.testing.assert_close(network(images), own(images))
    plugin = backbone(TV)
    assert all(plugin.weight_name(network, n) in network.state_dict() for n in own.state_dict())
    assert not any(module._forward_hooks for module in network.modules())
    assert network.network.training is False


@pytest.mark.parametrize(
    "model, told",
    [
        ("resnet19", "torchvision has no classification network 'resnet19'"),
        ("googlenet", "returns several outputs while it trains"),
        ("mnasnet1_0", "takes no stored weights"),
        ("raft_small", "has no classification network"),
    ],
)
def test_a_wrong_model_is_one_sentence(model: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        backbone(f"torchvision:{model}")


@pytest.mark.parametrize(
    "model, shape, told",
    [
        ("squeezenet1_1", (3, 64, 64), "does not end in a linear layer on features"),
        ("vit_b_16", SHAPE, r"torchvision:vit_b_16 does not take images of 3 x 32 x 32: .*224"),
        ("resnet18", (1, 28, 28), "take images of 3 channels, got 1"),
    ],
)
def test_images_and_networks_that_do_not_fit_are_one_sentence(
    model: str, shape: tuple[int, int, int], told: str
) -> None:
    plugin = backbone(f"torchvision:{model}")
    reason = plugin.refuses(shape)
    assert reason is not None
    with torch.device("meta"), pytest.raises(DataError, match=told):
        plugin.build(10, shape)
    assert backbone("torchvision").refuses(SHAPE) is None


class Stub(nn.Module):
    """What timm's networks have in common; two stages, dropout before the classifier."""

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
    module = SimpleNamespace(create_model=stub, is_model=lambda name: name == "stubnet", __spec__=object())
    monkeypatch.setitem(sys.modules, "timm", module)


@pytest.mark.usefixtures("timm")
def test_a_network_of_timm_is_taken_apart() -> None:
    plugin, network = backbone("timm:stubnet[normalisation=half]"), build("timm:stubnet[normalisation=half]", 5).eval()
    own, images = Stub(5, 3).eval(), torch.rand(2, *SHAPE)
    own.load_state_dict(
        {n.removeprefix("network.").replace("head.", "fc."): v for n, v in network.state_dict().items()}
    )
    with torch.no_grad():
        torch.testing.assert_close(network(images), own((images - 0.5) / 0.5))
    assert plugin.blocks(network) == [network.network.stem, network.network.stage]
    assert plugin.weight_name(network, "fc.bias") == "head.bias"
    assert plugin.refuses((1, 28, 28)) is None
    with pytest.raises(UserError, match=r"timm has no network 'resnet26'"):
        backbone("timm:resnet26")


def test_without_timm_one_sentence_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    plugin = backbone("timm:resnet26")
    told = "needs the package timm, which is not installed: pip install 'oodbench[timm]'"
    assert told in (plugin.refuses(SHAPE) or "")
    with pytest.raises(DataError, match="needs the package timm"):
        plugin.build(10, SHAPE)


def test_a_real_network_of_timm() -> None:
    pytest.importorskip("timm", reason="timm is an optional extra: pip install 'oodbench[timm]'")
    check_backbone("timm")
    plugin = backbone("timm:resnet26")
    with torch.device("meta"):
        network = plugin.build(10, SHAPE)
    assert len(maps_of(plugin, network.eval(), torch.rand(1, *SHAPE, device="meta"))) >= 4
