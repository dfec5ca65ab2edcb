"""The networks of the confidence-loss paper: sizes, initialisation, dropout, and every layer by its formula."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oodbench.benchmark import Backbone, DataError
from oodbench.benchmark.api import prepare
from oodbench.benchmark.backbones._lee2018_convnet import ConvNet
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.verify.other_checks import check_backbone

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (3, 32, 32)
FEATURES = {"vgg13": 512, "simple_cnn": 2048, "alexnet": 1024}
VGG = [(3, 64), (64, 64), (64, 128), (128, 128), (128, 256), (256, 256), (256, 512), (512, 512), (512, 512), (512, 512)]
SIZES = {
    "vgg13": sum((9 * a + 1) * b for a, b in VGG) + 2 * 513 * 512 + 513 * 10,
    "simple_cnn": 76 * 128 + (25 * 128 + 1) * 256 + (6400 + 1) * 2048 + 2049 * 2048 + 2049 * 10,
    "alexnet": (
        76 * 64 + (25 * 64 + 1) * 192 + (9 * 192 + 1) * 384 + (9 * 384 + 1) * 256 + (9 * 256 + 1) * 256
        + (2304 + 1) * 2048 + 2049 * 1024 + 1025 * 10
    ),
}  # fmt: skip
STATED = {"vgg13": 9_935_434, "simple_cnn": 18_155_274, "alexnet": 9_280_330}


def backbone(name: str) -> Backbone:
    plugin: Backbone = registry.get("backbone", name)()
    return plugin


def build(name: str, classes: int = 10, seed: int = 0) -> ConvNet:
    torch.manual_seed(seed)
    network = backbone(name).build(classes, SHAPE)
    assert isinstance(network, ConvNet)
    return network


def layers(network: nn.Module, kind: type[nn.Module]) -> list[nn.Module]:
    return [module for module in network.modules() if isinstance(module, kind)]


@pytest.mark.parametrize("name", FEATURES)
def test_it_has_as_many_parameters_as_its_layers_add_up_to(name: str) -> None:
    counted = sum(weight.numel() for weight in build(name).parameters())
    assert counted == SIZES[name] == STATED[name]
    assert f"{counted:,} parameters for K = 10" in " ".join((type(backbone(name)).__doc__ or "").split())
    assert not layers(build(name), nn.BatchNorm2d)


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize("classes", [2, 10, 100])
def test_shapes_are_right_and_logits_are_the_head_of_the_features(name: str, classes: int) -> None:
    network, images = build(name, classes).eval(), torch.rand(3, *SHAPE)
    with torch.no_grad():
        features, logits = network.features(images), network(images)
    assert features.shape == (3, FEATURES[name])
    assert logits.shape == (3, classes)
    assert torch.equal(network.head(features), logits)
    assert (features >= 0).all()
    assert network.head.weight.shape == (classes, FEATURES[name])


@pytest.mark.parametrize("name", FEATURES)
def test_the_contract_check_passes(name: str) -> None:
    check_backbone(name)


@pytest.mark.parametrize("name", FEATURES)
def test_equal_seeds_give_equal_networks(name: str) -> None:
    one, same, other = build(name), build(name), build(name, seed=1)
    pairs = zip(one.state_dict().values(), same.state_dict().values(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    assert not torch.equal(one.head.weight, other.head.weight)


def test_vgg13_starts_as_released() -> None:
    """Standard deviations within four standard errors, sd / sqrt(2 n); means within four of theirs, sd / sqrt(n)."""
    network = build("vgg13")
    for module in [*layers(network, nn.Conv2d), *layers(network, nn.Linear)]:
        assert isinstance(module, nn.Conv2d | nn.Linear)
        wanted = (2 / (9 * module.out_channels)) ** 0.5 if isinstance(module, nn.Conv2d) else 0.01
        weight, count = module.weight.detach().double(), module.weight.numel()
        assert weight.std().item() == pytest.approx(wanted, abs=4 * wanted / (2 * count) ** 0.5)
        assert abs(weight.mean().item()) < 4 * wanted / count**0.5
        assert module.bias is not None
        assert not module.bias.any()


@pytest.mark.parametrize("name, dropouts", [("vgg13", 2), ("simple_cnn", 0), ("alexnet", 2)])
def test_dropout_acts_in_training_only(name: str, dropouts: int) -> None:
    network, images = build(name), torch.rand(4, *SHAPE)
    assert [module.p for module in layers(network, nn.Dropout)] == [0.5] * dropouts
    with torch.no_grad():
        noisy = [network.train()(images) for _ in range(2)]
        calm = [network.eval()(images) for _ in range(2)]
        zeros = [(network.train(mode).features(images) == 0).double().mean() for mode in (True, False)]
    assert torch.equal(calm[0], calm[1])
    assert torch.equal(noisy[0], noisy[1]) is (dropouts == 0)
    assert (zeros[0] - zeros[1] > 0.1).item() is (dropouts > 0)


# One forward pass by formula


def pool(x: Tensor, side: int, stride: int) -> Tensor:
    """Maximum over unfolded windows, without a pooling layer."""
    windows = x.unfold(2, side, stride).unfold(3, side, stride)
    largest: Tensor = windows.amax(dim=(4, 5))
    return largest


def by_formula(name: str, weights: list[Tensor], images: Tensor) -> tuple[Tensor, Tensor]:
    """Features and logits in evaluation mode, computed from the weights alone."""
    rest = iter(zip(weights[::2], weights[1::2], strict=True))

    def convolved(x: Tensor, padding: int) -> Tensor:
        weight, bias = next(rest)
        columns = F.unfold(x, weight.shape[-1], padding=padding)
        side = x.shape[-1] + 2 * padding - weight.shape[-1] + 1
        out = weight.flatten(1) @ columns + bias[:, None]
        maps: Tensor = out.clamp(min=0).unflatten(2, (side, side))
        return maps

    def linear(x: Tensor) -> Tensor:
        weight, bias = next(rest)
        summed: Tensor = x @ weight.T + bias
        return summed

    x = images
    if name == "vgg13":
        for _ in range(5):
            x = pool(convolved(convolved(x, 1), 1), 2, 2)
    elif name == "simple_cnn":
        for _ in range(2):
            x = pool(convolved(x, 0), 2, 2)
    else:
        for _ in range(2):
            x = pool(convolved(x, 2), 3, 2)
        x = pool(convolved(convolved(convolved(x, 1), 1), 1), 3, 2)
    x = linear(x.flatten(1)).clamp(min=0)
    x = linear(x).clamp(min=0)
    logits = linear(x)
    assert next(rest, None) is None
    return x, logits


@pytest.mark.parametrize("name", FEATURES)
def test_it_computes_its_layers(name: str) -> None:
    network = build(name).double().eval()
    if name == "vgg13":  # with zero biases and weights near 0.01 a wrong bias or a missing layer would hardly show
        with torch.no_grad():
            for weight in network.parameters():
                weight.normal_(0, (2 / weight[0].numel()) ** 0.5 if weight.ndim > 1 else 0.1)
    images = torch.rand(2, *SHAPE, dtype=torch.float64)
    with torch.no_grad():
        features, logits = by_formula(name, list(network.parameters()), images)
        assert torch.allclose(network.features(images), features, rtol=1e-11, atol=1e-11)
        assert torch.allclose(network(images), logits, rtol=1e-11, atol=1e-11)
    assert logits.std() > 1e-3


# Other images


@pytest.mark.parametrize("name", FEATURES)
@pytest.mark.parametrize(
    "shape, got",
    [
        ((1, 32, 32), "1 channel of 32 x 32"),
        ((3, 28, 28), "28 x 28"),
        ((4, 32, 64), "4 channels of 32 x 64"),
    ],
)
def test_other_images_are_one_sentence(name: str, shape: tuple[int, int, int], got: str) -> None:
    with pytest.raises(DataError) as error:
        backbone(name).build(10, shape)
    text = str(error.value)
    assert text.startswith(f"Backbone '{name}' takes images of 3 channels of 32 x 32 pixels, got ")
    assert got in text
    assert text.endswith("choose another --backbone, or give the set resized to 32 x 32.")
    assert backbone(name).refuses(SHAPE) is None


SMALL_IMAGES = """
import numpy as np
from oodbench.benchmark import Dataset, ImageSet, dataset

class Given(Dataset):
    classes = ("a", "b")
    def load(self, split, data_dir):
        images = np.random.RandomState(len(split) * len(self.name)).randint(0, 256, (40, 1, 28, 28), dtype=np.uint8)
        return ImageSet(images, np.arange(40) % 2, self.classes)

@dataset("test_small_grey", title="Small")
class Small(Given): pass

@dataset("test_small_other", title="Other")
class Other(Given): pass
"""


def test_a_run_says_so_before_any_work(tmp_path: Path) -> None:
    file, results = tmp_path / "mine.py", tmp_path / "results"
    file.write_text(SMALL_IMAGES)
    names = registry.load_file(file)
    try:
        with pytest.raises(UserError) as error:
            prepare("msp", id_sets="test_small_grey", ood_sets="test_small_other", backbone="vgg13", results=results)
    finally:
        for key in names:
            registry._objects.pop(key)
            registry._from_files.pop(key)
    assert "'test_small_grey' does not fit: backbone 'vgg13' takes images of 3 channels" in str(error.value)
    assert "got 28 x 28 pixels" in str(error.value)  # grey is repeated in three channels
    assert not (results / "runs").exists()
