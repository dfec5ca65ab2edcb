"""Channels of networks: those of the ID set, or the fixed ones; all images are converted to them, everywhere."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodbench.benchmark import Backbone, Batch, Dataset, Detector, ImageSet
from oodbench.benchmark.api import Prepared
from oodbench.benchmark.data.channels import LUMA, REPEATED, luma
from oodbench.benchmark.engines.engine import Quiet
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plan.jobs import ExtractJob, TrainJob
from oodbench.benchmark.plan.network_input import network_channels, refuses_channels
from oodbench.benchmark.plan.weights.file import Weights
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.benchmark.records.record import Record
from oodbench.benchmark.runner.runner import run_plan
from oodbench.benchmark.stages.networks import load_networks
from tests.support import TINY_BACKBONE, noise_images, prepare_suite, run_suite, write_suite

Register = Callable[[str, type[Plugin]], None]

pytestmark = pytest.mark.usefixtures("one_thread", "undrawn")

MATRIX = """
[[id]]
set = "drawn"
outliers = "coloured"
ood = [{ set = "photos" }, { set = "photos_luma" }, { set = "photos_luma3" }]
"""
GAN = """
[recipes.joint]
width = 4
[recipes.gan]
width = 4
"""
PHOTOS = noise_images(30, 5)


def drawn(count: int, seed: int, channels: int = 1) -> ImageSet:
    """Two classes of grey images: bright at the top, or at the bottom."""
    images = noise_images(count, seed, (1, 32, 32)) // 2
    labels = np.arange(count) % 2
    images[labels == 0, :, :16] += 100
    images[labels == 1, :, 16:] += 100
    return ImageSet(images.repeat(channels, axis=1), labels, ("top", "bottom"))


class Drawn(Dataset):
    """A grey ID set."""

    classes = ("top", "bottom")
    channels: ClassVar[int | None] = 1

    def load(self, split: str, data_dir: Path) -> ImageSet:
        return drawn(60 if split == "train" else 40, len(split))


class Coloured(Dataset):
    """Outliers in colour."""

    def load(self, split: str, data_dir: Path) -> ImageSet:
        return ImageSet(noise_images(40, 20 + len(split)))


def photos(images: np.ndarray) -> type[Dataset]:
    class Photos(Dataset):
        splits = ("test",)

        def load(self, split: str, data_dir: Path) -> ImageSet:
            return ImageSet(images)

    return Photos


class Seen(Detector):
    """Notes the shapes of the images that it scores."""

    needs = frozenset({"images"})
    shapes: ClassVar[list[tuple[int, ...]]] = []

    def score(self, batch: Batch) -> Tensor:
        self.shapes.append(tuple(batch.images.shape[1:]))
        return batch.images.mean(dim=(1, 2, 3)).double()


@pytest.fixture(autouse=True)
def sets(register: Register) -> None:
    grey = luma(PHOTOS)
    register("drawn", Drawn)
    register("coloured", Coloured)
    register("seen_images", Seen)
    for name, images in {"photos": PHOTOS, "photos_luma": grey, "photos_luma3": grey.repeat(3, axis=1)}.items():
        register(name, photos(images))


def started(
    folder: Path, detectors: str, *, channels: int | None = None, **options: Any
) -> tuple[Prepared, list[Record]]:
    suite = write_suite(folder, MATRIX, more=GAN)
    if channels is not None:
        text = suite.read_text(encoding="utf-8")
        suite.write_text(text.replace("[protocol]", f"[protocol]\nchannels = {channels}"), encoding="utf-8")
    prepared = prepare_suite(suite, detectors, **options)
    run = run_plan(prepared.plan, prepared.work, prepared.context, prepared.run_dir, prepared.asked, Quiet())
    assert [record.reason for record in run.records if record.reason] == []
    return prepared, run.records


def logits(prepared: Prepared, name: str) -> list[np.ndarray]:
    jobs = [job for job in prepared.plan.jobs.values() if isinstance(job, ExtractJob) and job.outputs.data.set == name]
    return [np.array(prepared.context.store.load_array(job.outputs.logits)) for job in jobs]


def networks(prepared: Prepared, recipe: str) -> dict[str, nn.Module]:
    job = next(
        job
        for job in prepared.plan.jobs.values()
        if isinstance(job, TrainJob) and job.checkpoint.recipe.startswith(recipe)
    )
    return load_networks(prepared.context.store, torch.device("cpu"), job.checkpoint)


@pytest.mark.slow
def test_no_network_of_a_grey_set_sees_colour(tmp_path: Path) -> None:
    """Photographs, their luma, and their luma in three channels are one set to a network, whatever trained it."""
    prepared, records = started(tmp_path, "msp,joint,confidence,gan_confidence,odin")
    found = [logits(prepared, name) for name in ("photos", "photos_luma", "photos_luma3")]
    assert len(found[0]) == 4
    for colour, grey, repeated in zip(*found, strict=True):
        assert np.array_equal(colour, grey)
        assert np.array_equal(repeated, grey)
    for label in {record.label for record in records}:
        rows = [record for record in records if record.label == label]
        assert len({tuple(record.metrics.items()) for record in rows}) == 1


def test_the_network_and_the_gan_of_a_grey_set_have_one_channel(tmp_path: Path) -> None:
    prepared, _ = started(tmp_path, "joint")
    found = networks(prepared, "joint")
    assert next(found["classifier"].parameters()).shape[1] == 1
    assert next(found["discriminator"].parameters()).shape[1] == 1
    assert found["generator"](torch.randn(3, 100, 1, 1)).shape == (3, 1, 32, 32)


@pytest.mark.parametrize("recipe", ["joint", "gan_confidence"])
def test_the_gan_of_a_network_with_three_channels_draws_equal_ones(tmp_path: Path, recipe: str) -> None:
    prepared, _ = started(tmp_path, recipe, channels=3)
    found = {**networks(prepared, recipe), **networks(prepared, "joint" if recipe == "joint" else "gan[")}
    assert next(found["classifier"].parameters()).shape[1] == 3
    samples = found["generator"](torch.randn(5, 100, 1, 1))
    assert samples.shape == (5, 3, 32, 32)
    assert samples.std() > 0
    assert torch.equal(samples[:, :1].expand_as(samples), samples)
    tinted = torch.cat([samples[:, :1], torch.rand(5, 2, 32, 32)], dim=1)
    assert torch.equal(found["discriminator"](tinted), found["discriminator"](samples))


def test_a_network_with_three_channels_gets_grey_repeated_and_colour_as_it_is(tmp_path: Path) -> None:
    prepared, records = started(tmp_path, "msp", channels=3)
    network = networks(prepared, "cross_entropy")["classifier"]
    expected = {
        "drawn": drawn(40, len("test"), channels=3).images,
        "photos": PHOTOS,
        "photos_luma": luma(PHOTOS).repeat(3, axis=1),
    }
    for name, images in expected.items():
        with torch.no_grad():
            own = network(torch.from_numpy(images).float() / 255).numpy()
        (stored, *_) = [found for found in logits(prepared, name) if len(found) == len(images)]
        assert stored == pytest.approx(own, rel=1e-4, abs=1e-5)
    assert {record.channels for record in records} == {3}
    assert {record.ood_set: dict(record.converted) for record in records} == {
        "photos": {"drawn": REPEATED},
        "photos_luma": {"drawn": REPEATED, "photos_luma": REPEATED},
        "photos_luma3": {"drawn": REPEATED},
    }


def test_what_was_converted_is_in_the_records_and_in_one_line_under_the_table(tmp_path: Path) -> None:
    run = run_suite(write_suite(tmp_path, MATRIX), "msp,confidence")
    by_set = {record.ood_set: record for record in run.records if record.label == "confidence"}
    assert {name: dict(record.converted) for name, record in by_set.items()} == {
        "photos": {"photos": LUMA},
        "photos_luma": {},
        "photos_luma3": {"photos_luma3": LUMA},
    }
    used = {(entry["use"], entry["set"]): entry for entry in by_set["photos"].provenance["data"]}
    assert used["train", "drawn"]["channels"] == 1
    assert "converted" not in used["train", "drawn"]
    outliers = used["train on outliers", "coloured"]
    assert (outliers["channels"], outliers["converted"]) == (3, LUMA)
    assert used["score", "photos"]["converted"] == LUMA
    notes = [note for note in run.info["notes"] if "channel" in note]
    assert notes == [
        "Networks of one channel get images in colour as their luma (ITU-R 601): photos, photos_luma3, coloured for "
        "drawn."
    ]


@pytest.mark.parametrize(("channels", "expected"), [(None, 1), (1, 1), (3, 3)])
def test_detectors_read_images_in_the_channels_of_the_network(
    tmp_path: Path, channels: int | None, expected: int
) -> None:
    Seen.shapes.clear()
    started(tmp_path, "seen_images", channels=channels)
    assert set(Seen.shapes) == {(expected, 32, 32)}


def test_colour_in_one_split_makes_a_colour_set(tmp_path: Path, register: Register) -> None:
    class Mixed(Drawn):
        channels = None

        def load(self, split: str, data_dir: Path) -> ImageSet:
            return drawn(60, 1) if split == "train" else drawn(40, 2, channels=3)

    register("drawn", Mixed)
    prepared, records = started(tmp_path, "joint")
    assert {record.channels for record in records} == {3}
    samples = networks(prepared, "joint")["generator"](torch.randn(2, 100, 1, 1))
    assert torch.equal(samples[:, :1].expand_as(samples), samples)


def test_equal_channels_of_all_training_images_are_noted(tmp_path: Path, register: Register) -> None:
    class Repeated(Drawn):
        channels = 3

        def load(self, split: str, data_dir: Path) -> ImageSet:
            return drawn(60 if split == "train" else 40, len(split), channels=3)

    register("drawn", Repeated)
    run = run_suite(write_suite(tmp_path, MATRIX), "msp")
    assert [note for note in run.info["notes"] if "R = G = B" in note] == [
        "The three channels of all training images of 'drawn' are equal (R = G = B): photographs, noise and generated "
        "images can be recognised by their colour alone. Store such images in grey, in one channel."
    ]


class ThreeChannels(Backbone):
    """A first layer of three channels, whatever the images have."""

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        from oodbench.benchmark.backbones.small_cnn import SmallCNNNetwork

        return SmallCNNNetwork(num_classes, (3, *image_shape[1:]), width=2, hidden=4)


def test_a_backbone_that_fixes_three_channels_is_told_how_to_say_so(tmp_path: Path, register: Register) -> None:
    register("rigid", ThreeChannels)
    suite = write_suite(tmp_path, MATRIX, backbone="rigid")
    with pytest.raises(UserError, match=r"backbone 'rigid' builds a network for 3 channels, and these images have 1; "):
        prepare_suite(suite, "msp")

    class Declared(ThreeChannels):
        channels = 3

    register("rigid", Declared)
    (first, *_) = run_suite(suite, "msp").records
    assert (first.reason, first.channels, dict(first.converted)) == ("", 3, {"drawn": REPEATED})


def test_a_network_whose_first_layer_follows_the_images_is_not_tried() -> None:
    """Trying one takes a second, in every command."""
    tried: list[torch.Size] = []

    class Watched(nn.Sequential):
        def forward(self, images: Tensor) -> Tensor:
            tried.append(images.shape)
            for layer in self:
                images = layer(images)
            return images

    class Following(Backbone):
        def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
            return Watched(nn.Conv2d(image_shape[0], 2, 3), nn.Flatten(), nn.Linear(2 * 36, num_classes))

    class Rigid(Following):
        def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
            return super().build(num_classes, (3, *image_shape[1:]))

    assert refuses_channels(Following(), lambda c: Following().build(2, (c, 8, 8)), (1, 8, 8)) == ""
    assert tried == []
    assert "builds a network for 3 channels" in refuses_channels(
        Rigid(), lambda c: Rigid().build(2, (c, 8, 8)), (1, 8, 8)
    )
    assert tried == [torch.Size([1, 1, 8, 8]), torch.Size([1, 3, 8, 8])]


@pytest.mark.parametrize("value", ["2", "true", "'grey'", "0"])
def test_a_suite_gives_one_or_three_channels(tmp_path: Path, value: str) -> None:
    suite = write_suite(tmp_path, MATRIX)
    suite.write_text(suite.read_text().replace("[protocol]", f"[protocol]\nchannels = {value}"))
    with pytest.raises(UserError, match=r"channels in \[protocol\] is .*; it must be 1 \(grey\) or 3 \(colour\)"):
        prepare_suite(suite, "msp")


def test_declared_channels_are_those_of_the_images(tmp_path: Path, register: Register) -> None:
    class Wrong(Drawn):
        channels = 3

    register("drawn", Wrong)
    with pytest.raises(
        UserError, match=r"'drawn' declares 3 channels, and its train split has images of 1\. Correct 'channels'"
    ):
        prepare_suite(write_suite(tmp_path, MATRIX), "msp")


@pytest.mark.parametrize("own", [1, 3])
@pytest.mark.parametrize("suite", [None, 1, 3])
@pytest.mark.parametrize("stored", [1, 3])
def test_the_first_layer_of_given_weights_decides(own: int, suite: int | None, stored: int) -> None:
    backbone: Backbone = create("backbone", parse_spec(TINY_BACKBONE))

    def build(channels: int) -> nn.Module:
        return backbone.build(2, (channels, 32, 32))

    weights = Weights(Path("w.pt"), "0", {"model": {f"module.{k}": v for k, v in build(stored).state_dict().items()}})
    assert network_channels(backbone, weights, suite, own, build) == stored
    assert network_channels(backbone, None, suite, own, build) == (suite or own)
    other = Weights(Path("w.pt"), "0", {"": {"unrelated": torch.zeros(3)}})
    assert network_channels(backbone, other, suite, own, build) == (suite or own)
    fixed: Backbone = create("backbone", parse_spec("vgg13"))
    assert network_channels(fixed, weights, suite, own, build) == 3
