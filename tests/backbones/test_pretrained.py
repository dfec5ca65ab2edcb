"""Pretrained networks of torchvision and timm: preprocessing, statistics, and files without a network."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from PIL import Image

from oodbench.benchmark import DataError, Preprocessing
from oodbench.benchmark.backbones._normalise import mean_and_std, spelled
from oodbench.benchmark.errors import UserError
from tests.backbones.networks import backbone, build

pytestmark = pytest.mark.usefixtures("one_thread")

TORCHVISION = (
    "resnet50[weights=IMAGENET1K_V1]",
    "resnet50[weights=IMAGENET1K_V2]",
    "vit_b_16[weights=IMAGENET1K_SWAG_E2E_V1]",
    "swin_t[weights=IMAGENET1K_V1]",
    "convnext_tiny[weights=IMAGENET1K_V1]",
    "regnet_y_16gf[weights=IMAGENET1K_V2]",
    "efficientnet_b0[weights=IMAGENET1K_V1]",
    "efficientnet_v2_s[weights=IMAGENET1K_V1]",
)
TIMM = (
    "vit_base_patch16_224.augreg2_in21k_ft_in1k",
    "tf_efficientnet_lite0.in1k",
    "resnet50.a1_in1k",
    "swin_tiny_patch4_window7_224.ms_in1k",
    "convnext_tiny.fb_in1k",
    "tf_efficientnet_b0.ns_jft_in1k",
    "eva02_base_patch14_448.mim_in22k_ft_in1k",
    "deit3_small_patch16_224.fb_in1k",
)


def pictures() -> dict[str, Image.Image]:
    """Pictures of every kind that files hold: modes, shapes and sizes."""
    rng = np.random.default_rng(0)

    def noise(height: int, width: int) -> Image.Image:
        coarse = Image.fromarray(rng.integers(0, 256, (height // 7 + 2, width // 7 + 2, 3), dtype=np.uint8))
        return coarse.resize((width, height), Image.Resampling.BICUBIC)

    turned = noise(211, 160)
    turned.getexif()[0x0112] = 6
    return {
        "colour": noise(300, 400),
        "grey": noise(257, 333).convert("L"),
        "cmyk": noise(240, 260).convert("CMYK"),
        "palette": noise(250, 250).convert("P"),
        "alpha": noise(231, 300).convert("RGBA"),
        "exif": turned,
        "tall": noise(901, 97),
        "wide": noise(64, 777),
        "small": noise(20, 31),
        "exact": noise(256, 256),
    }


def assert_parity(text: str, evaluation: Any) -> None:
    """The library's own transform, without its normalisation, gives the pixels of `Preprocessing`, bit for bit."""
    preprocessing = backbone(text).preprocessing()
    assert preprocessing is not None
    for kind, picture in pictures().items():
        picture = picture.convert("RGB")
        ours = np.asarray(preprocessing.apply(picture)).transpose(2, 0, 1)
        assert np.array_equal(ours, evaluation(picture)), (text, kind)


@pytest.mark.parametrize("text", TORCHVISION)
def test_pixels_are_those_of_torchvision(text: str) -> None:
    from torchvision.models import get_model_weights

    name, _, setting = text.rstrip("]").partition("[weights=")
    transform = get_model_weights(name)[setting].transforms()
    transform.mean, transform.std = [0.0] * 3, [1.0] * 3
    assert_parity(f"torchvision:{text}", lambda picture: (transform(picture) * 255).round().to(torch.uint8).numpy())


@pytest.mark.parametrize("name", TIMM)
def test_pixels_are_those_of_timm(name: str) -> None:
    timm = pytest.importorskip("timm", reason="timm is an optional extra")
    config = timm.data.resolve_data_config(pretrained_cfg=timm.get_pretrained_cfg(name).to_dict())
    transform = timm.data.create_transform(**config, is_training=False, normalize=False)
    assert_parity(f"timm:{name}[pretrained=true]", lambda picture: transform(picture).numpy())


def test_squeezed_pictures_are_those_of_timm() -> None:
    """`crop_mode` squash: both sides are scaled, then the centre is taken."""
    timm = pytest.importorskip("timm", reason="timm is an optional extra")
    name = "vit_base_patch16_clip_224.openai_ft_in1k"
    config = timm.get_pretrained_cfg(name)
    for crop_pct, expected in ((1.0, None), (0.9, (224, 224))):
        plugin: Any = backbone(f"timm:{name}")
        object.__setattr__(
            plugin, "_config", lambda p=crop_pct: {**config.to_dict(), "crop_mode": "squash", "crop_pct": p}
        )
        preprocessing = plugin.preprocessing()
        assert preprocessing.crop == expected
        resolved = timm.data.resolve_data_config(pretrained_cfg=plugin._config())
        transform = timm.data.create_transform(**resolved, is_training=False, normalize=False)
        for picture in (p.convert("RGB") for p in pictures().values()):
            ours = np.asarray(preprocessing.apply(picture)).transpose(2, 0, 1)
            assert np.array_equal(ours, transform(picture).numpy())


def test_borders_are_refused() -> None:
    timm = pytest.importorskip("timm", reason="timm is an optional extra")
    config = timm.get_pretrained_cfg("resnet18").to_dict()
    plugin: Any = backbone("timm:resnet18")
    object.__setattr__(plugin, "_config", lambda: {**config, "crop_mode": "border"})
    with pytest.raises(DataError, match=r"with the crop mode 'border', .*: give --resize and --crop\.$"):
        plugin.preprocessing()


def test_small_networks_of_this_package_have_no_preprocessing() -> None:
    assert backbone("small_cnn").preprocessing() is None
    assert backbone("resnet18").pretrained_weights() is None
    assert backbone("torchvision:resnet50").pretrained_weights() is None
    assert backbone("torchvision:resnet50").preprocessing() == Preprocessing(232, (224, 224), "bilinear")


def test_the_statistics_are_those_of_the_weights() -> None:
    def stated(text: str) -> list[list[float]]:
        layer = backbone(text).normalise(3)  # type: ignore[attr-defined]
        return [layer.get_buffer(name).flatten().tolist() for name in ("mean", "std")]

    imagenet, half = (torch.tensor(mean_and_std(name)).tolist() for name in ("imagenet", "half"))
    assert stated("torchvision:resnet50[weights=IMAGENET1K_V1]") == imagenet
    assert stated("torchvision:efficientnet_v2_l[weights=IMAGENET1K_V1]") == half
    assert stated("torchvision:efficientnet_v2_l[normalisation=imagenet]") == imagenet
    pytest.importorskip("timm", reason="timm is an optional extra")
    assert stated("timm:tf_efficientnet_lite0[pretrained=true]") == stated("timm:tf_efficientnet_lite0") == half
    assert stated("timm:resnet50.a1_in1k") == imagenet
    assert stated("timm:resnet50[normalisation=0.5 0.5 0.5/0.25 0.5 1]") == [[0.5] * 3, [0.25, 0.5, 1.0]]


def test_a_transformer_takes_the_size_of_its_weights_and_no_other() -> None:
    """Its positions are fixed."""
    for setting, size in (("IMAGENET1K_V1", 224), ("IMAGENET1K_SWAG_E2E_V1", 384)):
        plugin = backbone(f"torchvision:vit_b_16[weights={setting}]")
        assert plugin.refuses((3, size, size)) is None
        reason = plugin.refuses((3, 192, 192))
        assert reason is not None
        assert f"does not take images of 3 x 192 x 192: Wrong image height! Expected {size} but got 192!" in reason


def test_notes_have_the_numbers_of_auto() -> None:
    assert backbone("torchvision:efficientnet_v2_s").statistics == "0.485 0.456 0.406/0.229 0.224 0.225"
    assert backbone("torchvision:resnet18[normalisation=half]").statistics == "half"
    assert backbone("small_cnn").statistics == ""


def test_mean_and_std_may_be_numbers() -> None:
    assert mean_and_std("0.5/0.25") == ((0.5,) * 3, (0.25,) * 3)
    mean, std = mean_and_std("imagenet")
    assert mean_and_std(spelled(mean, std)) == (mean, std)
    grey = build("resnet18[width=1,normalisation=0.3 0.4 0.5/0.1 0.2 0.3]", shape=(1, 32, 32))
    assert grey.normalise.get_buffer("mean").item() == pytest.approx(0.4)
    named = build("resnet18[width=1,normalisation=half]", seed=3).eval()
    spelt = build("resnet18[width=1,normalisation=0.5 0.5 0.5/0.5 0.5 0.5]", seed=3).eval()
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(named(images), spelt(images))


@pytest.mark.parametrize(
    "text, message",
    [
        ("resnet18[normalisation=cifar]", "one of cifar10, cifar100, .*, or a mean and a standard deviation such as"),
        ("resnet18[normalisation=0.5 0.5/1]", r"such as '0\.5 0\.5 0\.5/0\.25 0\.25 0\.25', got '0\.5 0\.5/1'"),
        ("resnet18[normalisation=0.5 0.5 0.5/0.5 0 0.5]", "finite numbers and standard deviations above 0"),
        ("resnet18[normalisation=nan/1]", "finite numbers"),
        ("torchvision:resnet50[weights=IMAGENET1K_V3]", "no weights 'IMAGENET1K_V3' of resnet50; choose .*_V2, .*_V1"),
        ("torchvision:vgg16[weights=IMAGENET1K_FEATURES]", "'IMAGENET1K_FEATURES' of vgg16 have no classifier"),
        ("timm:resnet50.a9_in1k", r"timm has no weights 'a9_in1k' of resnet50; choose .*a\d_in1k"),
        ("timm:resnet5o[pretrained=true]", "timm has no network 'resnet5o'; choose resnet50"),
        ("timm:vit_base_patch14_dinov2.lvd142m[pretrained=true]", "lvd142m have no classifier"),
    ],
)
def test_a_wrong_name_is_one_sentence_with_the_nearest(text: str, message: str) -> None:
    if text.startswith("timm"):
        pytest.importorskip("timm", reason="timm is an optional extra")
    with pytest.raises(UserError, match=message):
        backbone(text)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


def file_of(text: str) -> Path:
    found = backbone(text).pretrained_weights()
    assert found is not None
    return found.file()


def test_torchvision_files_are_downloaded_once_into_the_cache_of_torch_hub(
    cache: Path, monkeypatch: pytest.MonkeyPatch, logged: list[str]
) -> None:
    calls: list[tuple[str, str, str | None]] = []

    def download(url: str, dst: str, hash_prefix: str | None, progress: bool) -> None:
        calls.append((url, dst, hash_prefix))
        Path(dst).write_bytes(b"weights")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    for _ in range(2):
        assert file_of("torchvision:resnet18[weights=IMAGENET1K_V1]") == cache / "resnet18-f37072fd.pth"
    url = "https://download.pytorch.org/models/resnet18-f37072fd.pth"
    assert calls == [(url, str(cache / "resnet18-f37072fd.pth"), "f37072fd")]
    assert f"Downloading the weights IMAGENET1K_V1 of torchvision's resnet18 from {url}" in "\n".join(logged)


def test_a_file_with_another_hash_is_refused(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch.hub compares the SHA-256 with the one in the file's name."""
    content = cache.parent / "served.pth"
    content.parent.mkdir(parents=True)
    content.write_bytes(b"something else")
    monkeypatch.setattr(torch.hub, "urlopen", lambda request: _Response(content.read_bytes()))
    with pytest.raises(DataError, match=r"cannot be downloaded from .*invalid hash value"):
        file_of("torchvision:resnet18[weights=IMAGENET1K_V1]")
    assert not list(cache.iterdir())


class _Response(io.BytesIO):
    """The part of an HTTP response that torch.hub reads."""

    headers: ClassVar[dict[str, str]] = {}

    def info(self) -> Any:
        return SimpleNamespace(get_all=lambda name: None)


def test_without_a_network_one_sentence_names_the_file(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise OSError("Name or service not known")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    with pytest.raises(DataError) as error:
        file_of("torchvision:resnet50[weights=IMAGENET1K_V2]")
    assert str(error.value) == (
        "The weights IMAGENET1K_V2 of torchvision's resnet50 cannot be downloaded from "
        "https://download.pytorch.org/models/resnet50-11ad3fa6.pth (Name or service not known): put that file at "
        f"'{cache / 'resnet50-11ad3fa6.pth'}', or give that file with --checkpoint, to the same backbone without its "
        "setting for weights."
    )
    pytest.importorskip("timm", reason="timm is an optional extra")
    hub = pytest.importorskip("huggingface_hub")
    monkeypatch.setattr(hub, "hf_hub_download", offline)
    with pytest.raises(DataError, match=r"huggingface\.co/timm/resnet18\.a1_in1k/resolve/main/model\.safetensors "):
        file_of("timm:resnet18.a1_in1k[pretrained=true]")


def test_timm_files_come_from_the_hub_with_safetensors_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("timm", reason="timm is an optional extra")
    hub = pytest.importorskip("huggingface_hub")
    asked: list[tuple[str, str, str | None]] = []

    class LocalEntryNotFoundError(type("EntryNotFoundError", (Exception,), {})):  # type: ignore[misc]
        pass

    def download(repository: str, name: str, revision: str | None) -> str:
        asked.append((repository, name, revision))
        if name.endswith(".safetensors"):
            raise LocalEntryNotFoundError(name)
        return str(tmp_path / name)

    monkeypatch.setattr(hub, "hf_hub_download", download)
    assert file_of("timm:resnet18.a1_in1k[pretrained=true]") == tmp_path / "pytorch_model.bin"
    names = ("model.safetensors", "pytorch_model.bin")
    assert asked == [("timm/resnet18.a1_in1k", name, None) for name in names]


def test_the_outputs_are_named() -> None:
    found = backbone("torchvision:resnet50[weights=IMAGENET1K_V2]").pretrained_weights()
    assert found is not None
    assert (found.outputs, found.labels) == (1000, "imagenet-1k")
    assert found.title == "IMAGENET1K_V2 of torchvision's resnet50"
    pytest.importorskip("timm", reason="timm is an optional extra")
    found = backbone("timm:resnet50[pretrained=true]").pretrained_weights()
    assert found is not None
    assert found.outputs == len(found.labels) == 1000
    assert list(found.labels) == sorted(found.labels)
