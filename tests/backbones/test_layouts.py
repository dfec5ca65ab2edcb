"""Feature maps of transformers and channels-last networks as (N, C, H, W), and logits equal to the libraries' own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from oodbench.benchmark import DataError
from oodbench.benchmark.plugins.inputs import Classifier
from oodbench.benchmark.plugins.networks.layouts import Layout, MapTap, layout_of
from tests.backbones.networks import backbone

pytestmark = pytest.mark.usefixtures("one_thread")

TORCHVISION = {
    "swin_t": ((64, 64), [(96, 16, 16), (192, 8, 8), (384, 4, 4), (768, 2, 2)]),
    "convnext_tiny": ((64, 64), [(96, 16, 16), (192, 8, 8), (384, 4, 4), (768, 2, 2)]),
    "regnet_y_400mf": ((64, 64), [(32, 32, 32), (48, 16, 16), (104, 8, 8), (208, 4, 4), (440, 2, 2)]),
    "efficientnet_b0": ((64, 64), [(16, 32, 32), (24, 16, 16), (40, 8, 8), (112, 4, 4), (1280, 2, 2)]),
    "mobilenet_v3_small": ((64, 64), [(16, 32, 32), (16, 16, 16), (24, 8, 8), (48, 4, 4), (576, 2, 2)]),
    "densenet121": ((64, 64), [(64, 32, 32), (256, 16, 16), (512, 8, 8), (1024, 4, 4), (1024, 2, 2)]),
    "resnet50": ((64, 64), [(64, 32, 32), (256, 16, 16), (512, 8, 8), (1024, 4, 4), (2048, 2, 2)]),
    "vit_b_16": ((224, 224), [(768, 14, 14)]),
}
TIMM = {
    "vit_tiny_patch16_224": ((64, 96), [(192, 4, 6)]),
    "vit_small_patch14_reg4_dinov2": ((56, 56), [(384, 4, 4)]),
    "swin_tiny_patch4_window7_224": ((224, 224), [(96, 56, 56), (192, 28, 28), (384, 14, 14), (768, 7, 7)]),
    "convnext_atto": ((64, 64), [(40, 16, 16), (80, 8, 8), (160, 4, 4), (320, 2, 2)]),
    "tf_efficientnet_lite0": ((64, 64), [(16, 32, 32), (24, 16, 16), (40, 8, 8), (112, 4, 4), (1280, 2, 2)]),
}


def check(text: str, size: tuple[int, int], shapes: Sequence[tuple[int, ...]], plain: Callable[[], nn.Module]) -> None:
    """Logits are those of the library's own network with the same weights, and maps have the expected shapes."""
    plugin = backbone(f"{text}[normalisation=raw]")
    torch.manual_seed(0)
    network: Any = plugin.build(7, (3, *size)).eval()
    original = plain().eval()
    weights = {plugin.weight_name(network, name): value for name, value in original.state_dict().items()}
    network.load_state_dict(weights)
    images = torch.rand(2, 3, *size)
    classifier = Classifier(network, 7, plugin.blocks)
    with torch.no_grad():
        expected, logits, output = original(images), network(images), classifier.forward_with_maps(images)
    assert (logits - expected).abs().max() <= 1e-5 * expected.abs().max()
    assert torch.equal(output.logits, logits)
    assert [tuple(maps.shape[1:]) for maps in output.maps] == shapes


LARGE = ("vit_b_16", "swin_t", "convnext_tiny", "resnet50", "swin_tiny_patch4_window7_224")
"""Networks that take seconds; smaller ones of their kinds are tried by default."""


def marked(models: Iterable[str]) -> list[Any]:
    """Names of networks as parameters, large ones marked as slow."""
    return [pytest.param(name, marks=pytest.mark.slow if name in LARGE else ()) for name in models]


@pytest.mark.parametrize("model", marked(TORCHVISION))
def test_logits_and_maps_of_torchvision(model: str) -> None:
    from torchvision.models import get_model

    check(f"torchvision:{model}", *TORCHVISION[model], lambda: get_model(model, weights=None, num_classes=7))


@pytest.mark.parametrize("model", marked(TIMM))
def test_logits_and_maps_of_timm(model: str) -> None:
    timm = pytest.importorskip("timm", reason="timm is an optional extra")
    size, shapes = TIMM[model]

    def plain() -> nn.Module:
        sized = {"img_size": size} if "vit" in model or "swin" in model else {}
        network: nn.Module = timm.create_model(model, num_classes=7, **sized)
        return network

    check(f"timm:{model}", size, shapes, plain)


@pytest.mark.parametrize(
    "shape, prefix, expected",
    [
        ((1, 8, 4, 6), None, Layout(4, 6)),
        ((1, 4, 6, 8), None, Layout(4, 6, channels_last=True)),
        ((1, 24, 8), None, Layout(4, 6, prefix=0)),
        ((1, 25, 8), None, Layout(4, 6, prefix=1)),
        ((1, 29, 8), None, Layout(4, 6, prefix=5)),  # a class token and four registers
        ((1, 29, 8), 5, Layout(4, 6, prefix=5)),
        ((1, 29, 8), 1, None),  # the network says one
        ((1, 6, 7, 5), None, None),
        ((1, 8), None, None),
        ((2, 24, 8), None, None),  # windows, not images
    ],
)
def test_the_layout_of_an_output(shape: tuple[int, ...], prefix: int | None, expected: Layout | None) -> None:
    assert layout_of(torch.zeros(shape), (3, 64, 96), prefix) == expected


@pytest.mark.parametrize("layout", [Layout(2, 3, channels_last=True), Layout(2, 3, prefix=2), Layout(2, 3, prefix=0)])
def test_maps_hold_every_pixel_and_go_back(layout: Layout) -> None:
    shape = (4, 2, 3, 5) if layout.channels_last else (4, 6 + (layout.prefix or 0), 5)
    output = torch.rand(shape)
    maps = layout.to_maps(output)
    assert maps.shape == (4, 5, 2, 3)
    pixel = output[1, 1, 2] if layout.channels_last else output[1, (layout.prefix or 0) + 5]
    assert torch.equal(maps[1, :, 1, 2], pixel)
    assert torch.equal(layout.with_maps(output, maps), output)
    changed = layout.with_maps(output, maps * 2)
    assert torch.equal(layout.to_maps(changed), maps * 2)
    if layout.prefix:
        assert torch.equal(changed[:, :2], output[:, :2])


@pytest.mark.parametrize("pool, reached", [("token", False), ("avg", True)])
def test_maps_that_features_do_not_depend_on_cannot_be_changed(pool: str, reached: bool) -> None:
    """A class token is read after the last block; a mean over patches follows their change."""
    timm = pytest.importorskip("timm", reason="timm is an optional extra")
    plugin: Any = backbone("timm:vit_tiny_patch16_224")
    inner = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=7, global_pool=pool, fc_norm=False)
    network = plugin.wrapped(inner, 7, (3, 64, 64)).eval()
    (block,) = plugin.blocks(network)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        before = network(images)
        handle = block.register_forward_hook(lambda _, given, maps: torch.zeros_like(maps))
        try:
            if reached:
                assert not torch.allclose(network(images), before)
            else:
                with pytest.raises(DataError, match="from a class token: changed maps of its last block do not reach"):
                    network(images)
        finally:
            handle.remove()
        assert torch.equal(network(images), before)


def test_what_a_hook_returns_takes_the_place_of_the_maps() -> None:
    """Detectors that change maps, such as `rankfeat`, change the network's output."""
    module = nn.Identity()
    tap = MapTap(module, Layout(2, 3, prefix=1))
    tokens = torch.rand(4, 7, 5)
    assert torch.equal(module(tokens), tokens)
    seen: list[Tensor] = []
    watching = tap.register_forward_hook(lambda _, given, maps: seen.append(maps))
    assert module(tokens) is tokens
    assert seen[0].shape == (4, 5, 2, 3)
    watching.remove()
    changing = tap.register_forward_hook(lambda _, given, maps: torch.zeros_like(maps))
    changed = module(tokens)
    changing.remove()
    assert torch.equal(changed[:, 0], tokens[:, 0])
    assert not changed[:, 1:].any()
    assert module(tokens) is tokens
