"""The check that runs a detector as `bench run` does: a tiny suite through the planner, the engine and the store.

The other checks call a detector directly, with everything in memory. Here, what it learned goes through files, inputs
are read lazily and shared with others, and jobs are what a run consists of. The plug-ins of the suite exist only while
the check runs; names with a space in them cannot collide with anyone's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from oodbench.benchmark.api import prepare
from oodbench.benchmark.engines.engine import Quiet
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plugins.backbone import Backbone
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.dataset import Dataset, ImageSet
from oodbench.benchmark.plugins.recipe import Recipe, Task, TrainBatch, Training
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.benchmark.records.record import OK, SKIPPED
from oodbench.benchmark.runner.runner import run_plan
from oodbench.benchmark.verify.check_error import CheckError, SkippedCheck
from oodbench.benchmark.verify.toy_world import TrainableNetwork, recipe_with, toy_world

SUITE = """
schema = 1
[protocol]
backbone = "toy network"
recipe = "toy training"
precision = "float32"
[training]
epochs = 1
batch_size = 32
[[id]]
set = "toy classes"
outliers = "toy outliers"
ood = [{ set = "toy strangers" }]
"""

TRAIN = 128
"""Number of training images, so that a check takes a fraction of a second."""


class ToyClasses(Dataset):
    """The ID images of the toy world."""

    name = "toy classes"
    classes = tuple("abcd")

    def load(self, split: str, data_dir: Path) -> ImageSet:
        """The training or the test images."""
        return toy_world().train if split == "train" else toy_world().test


class ToyOutliers(Dataset):
    """Half of the toy world's OOD images, for training."""

    name = "toy outliers"
    splits = ("train",)

    def load(self, split: str, data_dir: Path) -> ImageSet:
        """The first half."""
        images = toy_world().ood
        return ImageSet(images.images[: len(images) // 2])


class ToyStrangers(Dataset):
    """The other half of the toy world's OOD images."""

    name = "toy strangers"
    splits = ("test",)

    def load(self, split: str, data_dir: Path) -> ImageSet:
        """The second half."""
        images = toy_world().ood
        return ImageSet(images.images[len(images) // 2 :])


class ToyNetwork(TrainableNetwork):
    """With dropout, which some detectors sample."""

    def __init__(self) -> None:
        super().__init__()
        self.body.append(nn.Dropout(0.1))

    def features(self, images: Tensor) -> Tensor:
        """Penultimate features (N, 16). The patterns are faint: without contrast, the features would not vary."""
        return super().features(30 * (images - 0.5))


class ToyBackbone(Backbone):
    """A small network that trains in no time."""

    name = "toy network"

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """A new network."""
        return ToyNetwork()

    def blocks(self, network: nn.Module) -> list[nn.Module]:
        """Its convolution, and the rectified maps."""
        return [network.body[0], network.body[1]] if isinstance(network, TrainableNetwork) else []


class ToyRecipe(Recipe):
    """Cross-entropy."""

    name = "toy training"

    def networks(self, task: Task) -> dict[str, nn.Module]:
        """The classifier."""
        return {"classifier": task.build_classifier()}

    def optimizers(self, networks: Mapping[str, nn.Module]) -> dict[str, torch.optim.Optimizer]:
        """Adam."""
        return {"classifier": torch.optim.Adam(networks["classifier"].parameters(), lr=0.01)}

    def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        """One step."""
        loss = F.cross_entropy(training.networks["classifier"](batch.images), batch.labels)
        training.optimizers["classifier"].zero_grad()
        loss.backward()
        training.optimizers["classifier"].step()
        return {"loss": loss.detach()}


TOYS: tuple[tuple[str, type[Plugin]], ...] = (
    ("dataset", ToyClasses),
    ("dataset", ToyOutliers),
    ("dataset", ToyStrangers),
    ("backbone", ToyBackbone),
    ("recipe", ToyRecipe),
)


@contextmanager
def _toys() -> Iterator[None]:
    """Register the plug-ins of the tiny suite."""
    for kind, plugin in TOYS:
        registry.adopt(kind, plugin.name, plugin, "bench check")
    try:
        yield
    finally:
        for kind, plugin in TOYS:
            registry.disown(kind, plugin.name)


def _with_recipe(name: str) -> str:
    """A detector as a run is asked for it; with a recipe if it reads named outputs and has none of its own."""
    detector = create("detector", parse_spec(name))
    return f"{name}@{recipe_with(detector)}" if detector.reads and detector.recipe is None else name


def check_run(name: str) -> None:
    """A run of a tiny suite gives every cell a number: trained, fitted, stored, loaded and scored as in `bench run`."""
    with tempfile.TemporaryDirectory() as folder, _toys():
        suite = Path(folder, "toy.toml")
        suite.write_text(SUITE, encoding="utf-8")
        try:
            asked = _with_recipe(name)
            prepared = prepare(asked, suite=str(suite), results=folder, limit_train=TRAIN, device="cpu", threads=1)
        except UserError as error:  # the toy network may lack what the detector works with
            raise SkippedCheck(str(error)) from error
        done = run_plan(prepared.plan, prepared.work, prepared.context, prepared.run_dir, prepared.asked, Quiet())
    for record in done.records:
        if record.status == SKIPPED:
            raise CheckError(f"a run of a tiny suite skips it: {record.reason}")
        if record.status != OK:
            raise CheckError(f"a run of a tiny suite fails: {record.reason}")
