"""Forward passes in fixed blocks: outputs, reproducibility, errors, and one pass per image and classifier."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from oodbench.benchmark import Backbone, DataError, ImageSet
from oodbench.benchmark.backbones.small_cnn import SmallCNN, SmallCNNNetwork
from oodbench.benchmark.data.pictures.block import BLOCK
from oodbench.benchmark.engines.engine import Quiet
from oodbench.benchmark.errors import PluginError
from oodbench.benchmark.plan.jobs import ExtractJob, SetRef
from oodbench.benchmark.runner.runner import run_plan
from oodbench.benchmark.stages.extract import extract
from tests.stages.extracted_sets import (
    CLASSES,
    SHAPE,
    ContextWith,
    Register,
    checkpoint,
    extracted,
    no_tick,
    noise,
    outputs,
    store_network,
    stored_network,
)
from tests.stages.planted_sets import PLANTED_MATRIX, PLANTED_TRAINING, register_planted
from tests.support import noise_images, prepare_suite, write_suite

pytestmark = pytest.mark.usefixtures("one_thread")


def test_outputs_are_those_of_the_network_in_float32_and_in_order(context_with: ContextWith) -> None:
    images = noise(BLOCK + 30)
    context = context_with({"set": ImageSet(images)})
    network = stored_network(context)
    logits, features = extracted(context, "set")
    with torch.inference_mode():
        expected = network.features(torch.from_numpy(images).float() / 255)
        assert features == pytest.approx(expected.numpy(), rel=1e-4, abs=1e-6)
        assert logits == pytest.approx(network.head(expected).numpy(), rel=1e-4, abs=1e-6)
    assert logits.dtype == features.dtype == np.float32
    assert logits.shape == (BLOCK + 30, CLASSES)
    assert features.shape == (BLOCK + 30, 16)


@pytest.mark.parametrize("last", [1, 88, BLOCK])
def test_a_set_cut_at_blocks_has_the_same_bits(context_with: ContextWith, last: int) -> None:
    images = noise(2 * BLOCK + last)
    parts = {"whole": images, "tail": images[BLOCK:], "last": images[2 * BLOCK :], "head": images[: 2 * BLOCK]}
    context = context_with({name: ImageSet(part) for name, part in parts.items()})
    stored_network(context)
    results = {name: extracted(context, name) for name in parts}
    for kind in (0, 1):
        whole = results["whole"][kind]
        assert np.array_equal(results["tail"][kind], whole[BLOCK:])
        assert np.array_equal(results["last"][kind], whole[2 * BLOCK :])
        assert np.array_equal(results["head"][kind], whole[: 2 * BLOCK])


@pytest.mark.parametrize("last", [1, 3, 88])
def test_a_partial_block_has_the_bits_of_a_full_one(context_with: ContextWith, last: int) -> None:
    images = noise(2 * BLOCK)
    context = context_with({"partial": ImageSet(images[: BLOCK + last]), "full": ImageSet(images)})
    stored_network(context)
    for partial, full in zip(extracted(context, "partial"), extracted(context, "full"), strict=True):
        assert np.array_equal(partial, full[: BLOCK + last])


def test_progress_counts_images_without_padding(context_with: ContextWith) -> None:
    context = context_with({"set": ImageSet(noise(BLOCK + 30))})
    stored_network(context)
    ticks: list[int] = []
    extracted(context, "set", ticks.append)
    assert ticks == [BLOCK, 30]


@pytest.mark.parametrize("shape", [(2, 8, 8), (3, 8, 9), (1, 9, 8)])
def test_images_of_another_shape_are_refused(context_with: ContextWith, shape: tuple[int, int, int]) -> None:
    context = context_with({"set": ImageSet(noise_images(5, shape=shape))})
    stored_network(context)
    with pytest.raises(DataError) as caught:
        extracted(context, "set")
    assert str(caught.value) == (
        f"set (test) holds {shape} images, but the classifier was trained on (3, 8, 8); "
        "they must have the same channels and size, or the same size in grey and in colour."
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_logits_that_are_not_finite_are_refused(context_with: ContextWith, value: float) -> None:
    context = context_with({"set": ImageSet(noise(5))})
    network = stored_network(context)
    with torch.no_grad():
        network.head.bias[2] = value
    store_network(context, network, checkpoint())
    with pytest.raises(PluginError, match=r"set \(test\) have shape \(5, 4\) with 5 non-finite values; expected"):
        extracted(context, "set")
    assert context.store.find(outputs("set", 5).logits) is None


class OneTooMany(Backbone):
    """Has one logit more than there are classes."""

    version = "1"

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        return SmallCNN(width=4, hidden=16).build(num_classes + 1, image_shape)


def test_logits_of_another_number_of_classes_are_refused(context_with: ContextWith, register: Register) -> None:
    register("one_too_many", OneTooMany)
    context = context_with({"set": ImageSet(noise(5))})
    trained, keys = checkpoint("one_too_many"), outputs("set", 5)
    store_network(context, OneTooMany().build(CLASSES, SHAPE), trained)
    job = ExtractJob(title="", makes=(keys.logits, keys.features), checkpoint=trained, outputs=keys)
    with pytest.raises(PluginError, match=r"have shape \(5, 5\) .* expected finite \(5, 4\)"):
        extract(context, job, no_tick)


# One pass for all detectors


DETECTORS = ("msp", "max_logit", "energy", "confidence", "gan_confidence", "joint")


def test_each_image_passes_once_through_each_classifier(
    tmp_path: Path, register: Register, monkeypatch: pytest.MonkeyPatch
) -> None:
    register_planted(register, (3, 32, 32))
    widths = "[recipes.gan]\nwidth = 2\n[recipes.joint]\nwidth = 2"
    suite = write_suite(tmp_path, PLANTED_MATRIX, training=PLANTED_TRAINING, more=widths)
    forwarded: dict[tuple[float, ...], Counter[bytes]] = {}
    original = SmallCNNNetwork.features

    def features(self: SmallCNNNetwork, images: Tensor) -> Tensor:
        if not self.training:
            images_of_network = forwarded.setdefault(tuple(self.head.bias.tolist()), Counter())
            images_of_network.update((255 * image).round().byte().numpy().tobytes() for image in images if image.any())
        return original(self, images)

    monkeypatch.setattr(SmallCNNNetwork, "features", features)
    prepared = prepare_suite(suite, DETECTORS, device="cpu")
    run = run_plan(prepared.plan, prepared.work, prepared.context, prepared.run_dir, prepared.asked, Quiet())
    assert [record.status for record in run.records] == ["ok"] * 12
    names = ("planted", "planted-near", "planted-far")
    every = [prepared.context.images(SetRef(name, "test", 24)).images for name in names]
    expected = Counter(image.tobytes() for images in every for image in images)
    assert len(expected) == 72
    assert len(forwarded) == 4  # cross_entropy, confidence, gan_confidence, joint
    assert all(images == expected for images in forwarded.values())
    assert sum(record.forward_images for record in run.records) == 4 * 72
