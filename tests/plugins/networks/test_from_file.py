"""`--backbone path/net.py:make`: a function in a user's file that returns an `nn.Module` is a backbone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from oodbench.benchmark import Preprocessing
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plugins.inputs import Classifier
from oodbench.benchmark.plugins.networks.places import (
    adopt_backbone,
    adopt_backbones,
    adopted_backbones,
    with_absolute_place,
)
from oodbench.benchmark.plugins.networks.transforms import Expected
from oodbench.benchmark.plugins.source_version import known_version, start_command
from oodbench.benchmark.plugins.specs import Spec, canonical, create, parse_spec
from tests.support import bench

pytestmark = pytest.mark.usefixtures("one_thread")

SHAPE = (1, 8, 8)

NET = """
from torch import nn

class Net(nn.Module):
    def __init__(self, num_classes=10, channels=1):
        super().__init__()
        self.conv = nn.Conv2d(channels, 4, 3, padding=1)
        self.down = nn.Conv2d(4, 6, 3, stride=2, padding=1)
        self.fc = nn.Linear(6, num_classes)

    def forward(self, images):
        return self.fc(self.down(self.conv(images).relu()).relu().mean((2, 3)))

def make(num_classes):
    return Net(num_classes)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(folder: Path, more: str = "", name: str = "net.py") -> Path:
    (folder / name).write_text(NET + more)
    return folder / name


def made(text: str) -> Any:
    return create("backbone", adopt_backbone(text))


def test_the_place_of_a_function_is_one_name(folder: Path) -> None:
    assert parse_spec("a/net.py:make") == Spec("a/net.py:make")
    assert str(parse_spec("net.py:make")) == "net.py:make"
    assert parse_spec("torchvision:resnet18") == Spec("torchvision", (("model", "resnet18"),))
    written(folder)
    backbone = made("net.py:make")
    assert str(canonical(backbone)) == backbone.name == "net.py:make"
    assert adopted_backbones(["wrn", "net.py:make"]) == (f"{folder / 'net.py'}:make",)
    assert with_absolute_place("net.py:make") == f"{folder / 'net.py'}:make"
    assert with_absolute_place("wrn[depth=16]") == "wrn[depth=16]"
    adopt_backbones([f"{folder / 'net.py'}:make"])


def test_its_network_has_the_contract_of_a_backbone(folder: Path) -> None:
    written(folder)
    backbone = made("net.py:make")
    assert backbone.refuses(SHAPE) is None
    with torch.device("meta"):  # as where networks are built to be looked at
        network = backbone.build(5, SHAPE).eval()
    images = torch.rand(3, *SHAPE)
    with torch.no_grad():
        features = network.features(images)
        assert features.shape == (3, 6)
        assert torch.equal(network.head(features), network(images))
        assert [tuple(m.shape) for m in Classifier(network, 5, backbone.blocks).forward_with_maps(images).maps] == [
            (3, 4, 8, 8),
            (3, 6, 4, 4),
        ]
    names = ["conv.weight", "conv.bias", "down.weight", "down.bias", "fc.weight", "fc.bias"]
    assert {backbone.weight_name(network, name) for name in names} == set(network.state_dict())


@pytest.mark.parametrize(
    "code, function, classes",
    [
        ("", "make", 5),
        ("", "Net", 5),
        ("def with_shape(image_shape, num_classes=3): return Net(num_classes, image_shape[0])", "with_shape", 5),
        ("def other_name(outputs, image_shape): return Net(outputs, image_shape[0])", "other_name", 5),
        ("def options(depth=3, **more): return Net()", "options", 10),
        ("def by_name(*, num_classes): return Net(num_classes)", "by_name", 5),
    ],
)
def test_how_a_function_is_called(folder: Path, code: str, function: str, classes: int) -> None:
    written(folder, code)
    assert made(f"net.py:{function}").build(classes, SHAPE).head.out_features == classes


def test_other_commands_know_it_as_a_plug_in(folder: Path) -> None:
    written(folder, "def any_image(num_classes, image_shape): return Net(num_classes, image_shape[0])")
    checked = bench("check", "net.py:any_image", "--plugin", "net.py:any_image")
    assert checked.exit_code == 0
    assert checked.output == "ok       backbone net.py:any_image: check_backbone\n"
    shown = bench("show", "net.py:any_image", "--plugin", "net.py:any_image")
    assert "A network of 'net.py'" in shown.output


def test_its_version_follows_the_file_and_what_lies_beside_it(folder: Path) -> None:
    def version() -> str:
        start_command()
        return known_version(type(made("net.py:make"))).version

    written(folder, "# a remark\n")
    (folder / "layers.py").write_text("scale = 1\n")
    first = version()
    written(folder, "# another remark\n")
    assert version() == first
    written(folder, "import layers\n")
    second = version()
    assert second != first
    (folder / "layers.py").write_text("scale = 2\n")
    assert version() not in (first, second)
    written(folder, 'depends_on = ("sizes.json",)\n')
    (folder / "sizes.json").write_text("1")
    declared = version()
    (folder / "sizes.json").write_text("2")
    assert version() != declared
    (folder / "sub").mkdir()
    written(folder / "sub")
    elsewhere = known_version(type(made("sub/net.py:make"))).version
    assert elsewhere == first


def test_a_changed_file_is_imported_again(folder: Path) -> None:
    written(folder)
    assert made("net.py:make").build(5, SHAPE).head.in_features == 6
    path = written(folder)
    path.write_text(NET.replace("6", "7"))
    assert made("net.py:make").build(5, SHAPE).head.in_features == 7


@pytest.mark.parametrize(
    "name, message",
    [
        ("a+b/net.py:make", "is not of the form NAME or .* A path cannot hold any of the characters"),
        ("gone.py:make", "The file 'gone.py' of the backbone 'gone.py:make' does not exist"),
        ("net.py", "The backbone 'net.py' is a file. Name the function in it as well: 'net.py:FUNCTION'"),
        ("net.py:mke", "The function 'mke' in 'net.py' does not exist. Did you mean 'make'"),
        ("net.py:number", "The function 'number' in 'net.py' is of type int, expected a function"),
        ("net.py:instance", "'instance' in 'net.py' is a network, expected a function that returns one"),
        ("broken.py:make", "The file 'broken.py' cannot be imported: ZeroDivisionError: division by zero"),
    ],
)
def test_places_that_are_wrong_are_one_sentence(folder: Path, name: str, message: str) -> None:
    written(folder, "number = 3\ninstance = Net()\n")
    written(folder, "1 / 0\n", "broken.py")
    with pytest.raises(UserError, match=message):
        made(name)


@pytest.mark.parametrize(
    "code, message",
    [
        ("def f(num_classes, width): return Net()", "'net.py:f' takes 'width', for which nothing is known"),
        ("def f(classes, /): return Net()", "takes 'classes' by position only"),
        ("def f(): return {}", "'net.py:f' returns an object of type dict, expected an nn.Module"),
        ("def f(): raise ValueError('no luck.')", "'net.py:f' fails: ValueError: no luck$"),
        ("def f(): return nn.Conv2d(1, 4, 3)", r"Conv2d returns \(2, 4, 6, 6\) for 2 images"),
        ("def f(): return nn.Sequential(Net(), nn.Softmax(1))", "Sequential returns probabilities"),
        ("def f(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 3, bias=False))", "The head '1' of .* has no bias"),
        ("def f(): return Net(channels=3)", "Net does not take images of 1 x 8 x 8"),
    ],
)
def test_functions_that_are_wrong_are_one_sentence(folder: Path, code: str, message: str) -> None:
    import re

    written(folder, code)
    reason = made("net.py:f").refuses(SHAPE)
    assert reason is not None
    assert re.search(message, reason)
    assert "\n" not in reason


def test_a_head_of_other_classes_is_refused(folder: Path) -> None:
    written(folder, "def ten(): return Net(10)")
    backbone = made("net.py:ten")
    assert backbone.refuses(SHAPE) is None
    assert backbone.refuses_classes(10, SHAPE) is None
    assert "returns a network of 10 outputs for 7 classes" in str(backbone.refuses_classes(7, SHAPE))


def test_weights_that_are_always_the_same_are_pointed_out(folder: Path, logged: list[str]) -> None:
    written(folder, "import torch\ndef seeded():\n    torch.manual_seed(0)\n    return Net()\n", "seeded.py")
    state = torch.get_rng_state()
    backbone = made("seeded.py:seeded")
    assert backbone.refuses(SHAPE) is None
    assert backbone.refuses(SHAPE) is None
    (message,) = logged
    assert "'seeded.py:seeded' returns the same weights every time" in message
    assert torch.equal(state, torch.get_rng_state())


def test_a_preprocessing_comes_with_the_network_or_the_function(folder: Path) -> None:
    code = """
from oodbench.benchmark import Preprocessing
from torchvision import transforms as T
def second(): return Net(channels=3), Preprocessing(12, (8, 8), "bicubic")
def attribute(): return Net(channels=3)
attribute.preprocessing = T.Compose([T.Resize(12), T.CenterCrop(8), T.ToTensor(), T.Normalize((0.5,) * 3, (0.25,) * 3)])
"""
    written(folder, code)
    second, attribute = made("net.py:second"), made("net.py:attribute")
    assert second.preprocessing() == Preprocessing(12, (8, 8), "bicubic")
    assert attribute.preprocessing() == Preprocessing(12, (8, 8), "bilinear")
    assert (second.statistics, attribute.statistics) == ("", "0.5 0.5 0.5/0.25 0.25 0.25")
    assert second.is_pretrained
    written(folder)
    assert not made("net.py:make").is_pretrained
    assert made("net.py:make").preprocessing() is None


def test_the_network_normalises_as_its_transform_says(folder: Path) -> None:
    written(folder, "from torchvision import transforms as T\ndef f(): return Net(), T.Normalize([0.5], [0.25])")
    network = made("net.py:f").build(10, SHAPE).eval()
    images = torch.rand(3, *SHAPE)
    with torch.no_grad():
        assert torch.equal(network.features(images), network.network((images - 0.5) / 0.25))
    assert set(network.state_dict()) == {
        *(f"network.{layer}.{kind}" for layer in ("conv", "down") for kind in ("weight", "bias")),
        *("head.weight", "head.bias"),
    }


def test_transforms_of_torchvision_that_come_to_a_preprocessing() -> None:
    from torchvision.transforms import InterpolationMode, v2
    from torchvision.transforms import transforms as v1
    from torchvision.transforms._presets import ImageClassification

    preset = Expected(ImageClassification(crop_size=224, resize_size=256), "x")
    assert preset.preprocessing == Preprocessing(256, (224, 224), "bilinear")
    assert preset.statistics == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    bicubic = InterpolationMode.BICUBIC
    squeezed = Expected(v2.Compose([v2.Resize((8, 6), bicubic), v2.ToImage(), v2.ToDtype(torch.float32, True)]), "x")
    assert squeezed.preprocessing == Preprocessing((8, 6), None, "bicubic")
    assert squeezed.normalise() is None
    nested = nn.Sequential(v1.CenterCrop(8), nn.Sequential(v1.ConvertImageDtype(torch.float32)))
    assert Expected(nested, "x").preprocessing == Preprocessing(None, (8, 8))
    assert Expected(None, "x").preprocessing is None
    for wrong, why in [
        (v1.Compose([v1.RandomCrop(8), v1.ToTensor()]), "RandomCrop.* is not one of Resize, CenterCrop"),
        (v1.Compose([v1.ToTensor(), v1.Resize(8)]), "Resize.* must come before"),
        (v1.Compose([v1.CenterCrop(8), v1.Resize(8)]), "Resize.* must come before"),
        (lambda image: image, "is not one of Resize"),
    ]:
        with pytest.raises(UserError, match=why):
            Expected(wrong, "x")
