"""The toy world of the contract checks: small images with planted classes, planted OOD images, and a classifier."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from typing import NamedTuple, NoReturn

import numpy as np
import torch
from torch import Tensor, nn

from oodbench.benchmark.errors import OodbenchError
from oodbench.benchmark.plan.recipes.declared import declared_outputs
from oodbench.benchmark.plugins.dataset import ImageSet
from oodbench.benchmark.plugins.detector import Detector, reduces
from oodbench.benchmark.plugins.inputs import (
    NAMED,
    NEEDS,
    Batch,
    BatchOutputs,
    Classifier,
    ForwardOutput,
    UndeclaredInputError,
)
from oodbench.benchmark.plugins.networks.with_outputs import joined_outputs, split_outputs
from oodbench.benchmark.plugins.recipe import Recipe, Task
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.benchmark.plugins.training_bank import TrainingBank
from oodbench.benchmark.stages.extract import checked_reduction
from oodbench.benchmark.stats.seeds import restored_rng
from oodbench.benchmark.verify.check_error import CheckError

CLASSES, SIDE, IMAGES = 4, 32, 160

STRANGE = 4
"""Number of patterns that the network detects and no class has."""

WEAKER = 0.9
"""Strength of each pattern's second channel: the maps of a pattern have rank two and different singular values."""


class PlantedMaps(nn.Module):
    """Two channels per pattern, each active at its own position with the pattern's strength: (N, 2 D, 4, 4)."""

    def __init__(self, patterns: Tensor) -> None:
        super().__init__()
        self.register_buffer("patterns", patterns.flatten(1))

    def forward(self, images: Tensor) -> Tensor:
        """Feature maps of either sign, (N, 2 D, 4, 4)."""
        patterns: Tensor = self.get_buffer("patterns")
        strengths = (images.flatten(1) - 0.5) @ patterns.T
        maps: Tensor = torch.diag_embed(torch.cat([strengths, WEAKER * strengths], dim=1)).unflatten(2, (4, 4))
        return maps


class PlantedNetwork(nn.Module):
    """Features: the strength of each planted pattern. Head: one pattern per class. Blocks: the maps, and their ReLU."""

    def __init__(self, patterns: Tensor) -> None:
        super().__init__()
        self.maps = PlantedMaps(patterns)
        self.rectified = nn.ReLU()
        self.head = nn.Linear(len(patterns), CLASSES)
        with torch.no_grad():
            self.head.weight.copy_(8 * torch.eye(CLASSES, len(patterns)))
            self.head.bias.zero_()

    def features(self, images: Tensor) -> Tensor:
        """Strength of each pattern, non-negative, (N, D)."""
        pooled: Tensor = self.rectified(self.maps(images)).sum(dim=(2, 3))
        features: Tensor = pooled.unflatten(1, (2, -1)).sum(dim=1) / (1 + WEAKER)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K)."""
        logits: Tensor = self.head(self.features(images))
        return logits


def planted_blocks(network: nn.Module) -> list[nn.Module]:
    """The blocks of the toy world's network."""
    return [network.maps, network.rectified] if isinstance(network, PlantedNetwork) else []


class ToyWorld(NamedTuple):
    """A classifier with planted features, labelled ID images, and OOD images."""

    classifier: Classifier
    train: ImageSet
    validation: ImageSet
    test: ImageSet
    ood: ImageSet
    """Weak blends of two classes and, weaker still, of a pattern that no class has, for methods that use the directions
    in which training images do not vary."""
    strange: ImageSet
    """A pattern that no class has, as strong as those of classes are, for methods that use the order of an image's
    features and not their size: to them, a blend of classes looks like a class."""


@cache
def toy_world() -> ToyWorld:
    """The toy world, the same in every process."""
    random = np.random.RandomState(0)
    patterns = _patterns(random)

    def draw(strengths: np.ndarray, labels: np.ndarray | None) -> ImageSet:
        clean = np.tensordot(strengths, patterns, axes=1)
        noisy = 0.5 + clean + 0.02 * random.randn(*clean.shape)
        images = np.clip(np.rint(255 * noisy), 0, 255).astype(np.uint8)
        return ImageSet(images, labels, tuple("abcd") if labels is not None else ())

    def draw_id(count: int) -> ImageSet:
        labels = np.arange(count) % CLASSES
        strengths = np.zeros((count, len(patterns)))
        strengths[np.arange(count), labels] = random.uniform(1.0, 1.5, count)
        return draw(strengths, labels)

    first = random.randint(CLASSES, size=IMAGES)
    second = (first + random.randint(1, CLASSES, size=IMAGES)) % CLASSES
    blends = np.zeros((IMAGES, len(patterns)))
    blends[np.arange(IMAGES), first] = blends[np.arange(IMAGES), second] = random.uniform(0.2, 0.3, IMAGES)
    blends[np.arange(IMAGES), CLASSES + np.arange(IMAGES) % STRANGE] = 0.07
    classifier = Classifier(planted_network(), CLASSES, planted_blocks)
    train, validation, test, ood = draw_id(4 * IMAGES), draw_id(IMAGES), draw_id(IMAGES), draw(blends, None)
    unknown = np.zeros((IMAGES, len(patterns)))
    unknown[np.arange(IMAGES), CLASSES + np.arange(IMAGES) % STRANGE] = random.uniform(1.0, 1.5, IMAGES)
    patterns = patterns - patterns.mean(axis=(1, 2, 3), keepdims=True)  # not to be told from ID by brightness
    return ToyWorld(classifier, train, validation, test, ood, draw(unknown, None))


def planted_network() -> PlantedNetwork:
    """A new copy of the toy world's network."""
    return PlantedNetwork(torch.from_numpy(_patterns(np.random.RandomState(0))).float())


def fresh_classifier() -> Classifier:
    """The toy world's classifier with a new network, in case an earlier plug-in changed the old one."""
    classifier = toy_world().classifier
    classifier.network = planted_network().eval().requires_grad_(False)
    return classifier


def _patterns(random: np.random.RandomState) -> np.ndarray:
    patterns = random.randn(CLASSES + STRANGE, 3, SIDE, SIDE)
    unit: np.ndarray = patterns / np.linalg.norm(patterns.reshape(len(patterns), -1), axis=1)[:, None, None, None]
    return unit


def toy_batch(
    detector: Detector,
    images: ImageSet,
    labelled: bool = False,
    supplied: Iterable[str] = NEEDS,
    rows: np.ndarray | None = None,
) -> Batch:
    """A batch of toy images with the inputs that a detector declares.

    Args:
        detector: The detector that reads the batch.
        images: The images.
        labelled: Whether the batch has labels, as in `fit`. `similarities` are then left out.
        supplied: Of the declared inputs, only these are available.
        rows: Indices (n,) of images to select. The network processes all images first: its outputs depend on the batch
            size in the last bits, which must not count against the detector.
    """
    names = detector.needs & set(supplied)
    classifier = toy_world().classifier
    own = reader_of(detector)
    pixels = torch.from_numpy(images.images).float() / 255
    named = toy_outputs(detector, own, images) if own else {}
    with torch.no_grad():
        output = classifier.forward_with_maps(pixels)
        if rows is not None:
            images, pixels = images.take(rows), pixels[rows]
            output = ForwardOutput([maps[rows] for maps in output.maps], output.features[rows], output.logits[rows])
        tensors = {"images": pixels, "features": output.features, "logits": output.logits.double()}
        if "maps" in names and reduces(detector):
            tensors["maps"] = checked_reduction(detector, output)
    parts: dict[str, Callable[[slice], Tensor]] = {name: tensors[name].__getitem__ for name in tensors if name in names}
    parts |= {NAMED + name: (values if rows is None else values[rows]).__getitem__ for name, values in named.items()}
    if labelled and images.labels is not None:
        parts["labels"] = torch.from_numpy(images.labels.copy()).__getitem__
    bank = None
    if "similarities" in names and not labelled:
        train = toy_bank_batch(detector)
        bank = TrainingBank(train.features.numpy(), detector.bank_rows(train))
        similarities = bank.similarities(output.features)
        parts["similarities"] = similarities.__getitem__
    passed = as_declared(own or classifier, detector, supplied)
    return Batch(len(images), parts, detector.name, passed if "network" in names else None, bank=bank)


def recipe_with(detector: Detector) -> str:
    """The recipe whose named outputs a detector reads: its own, or the first registered one that has them all.

    Raises `CheckError` if there is none.
    """
    task = Task(CLASSES, (3, SIDE, SIDE), TrainableNetwork)
    for name in (detector.recipe,) if detector.recipe else registry.entries("recipe"):
        with suppress(OodbenchError):
            if detector.reads <= declared_outputs(create("recipe", parse_spec(name)), task).keys():
                return name
    outputs = " and ".join(f"'{name}'" for name in sorted(detector.reads))
    whose = f"its recipe '{detector.recipe}' does not declare" if detector.recipe else "no registered recipe declares"
    raise CheckError(f"it reads output {outputs}, which {whose}; write outputs = {{NAME: WIDTH}} in the recipe")


class Reader(Classifier):
    """An untrained network of the recipe whose named outputs a detector reads; it gives those that it declares."""

    def __init__(self, detector: Detector) -> None:
        recipe = create("recipe", parse_spec(recipe_with(detector)))
        task = Task(CLASSES, (3, SIDE, SIDE), TrainableNetwork)
        with restored_rng(torch.device("cpu")):
            torch.manual_seed(0)
            super().__init__(recipe.networks(task)["classifier"], CLASSES)
        self.declared = declared_outputs(recipe, task)
        """The widths of all outputs of the recipe."""
        self.recipe = type(recipe)
        self._detector = detector

    def outputs(self, features: Tensor) -> dict[str, Tensor]:
        """The outputs in the detector's `reads`; others raise `UndeclaredInputError`."""
        given = {name: value for name, value in super().outputs(features).items() if name in self._detector.reads}
        return BatchOutputs(given, self._detector.name)


def reader_of(detector: Detector) -> Reader | None:
    """The network that a detector of named outputs reads; None for other detectors. Raises as `recipe_with`."""
    return Reader(detector) if detector.reads else None


_joined: dict[tuple[type[Recipe], str], Tensor] = {}
"""Recipe and checksum of toy images -> all named outputs of its untrained network, which starts from one seed."""


def toy_outputs(detector: Detector, reader: Reader, images: ImageSet) -> dict[str, Tensor]:
    """The named outputs that a detector reads, of N toy images, float64 (N, width).

    Raises `PluginError` if the network does not return what the recipe declares.
    """
    key = reader.recipe, images.checksum
    if key not in _joined:
        pixels = torch.from_numpy(images.images).float() / 255
        with torch.no_grad():
            given = Classifier.outputs(reader, reader.features(pixels))
            _joined[key] = joined_outputs(given, reader.declared, len(images))
    joined, columns = _joined[key], split_outputs(reader.declared)
    return {name: joined[:, columns[name]].double() for name in columns if name in detector.reads}


class WithoutHead(Classifier):
    """A classifier whose head may not be read, because the detector does not declare 'head' or it is not supplied."""

    def __init__(self, classifier: Classifier, owner: str) -> None:
        vars(self).update(vars(classifier))  # not through __init__, which would undo what a detector did to the network
        self._owner = owner

    def __call__(self, images: Tensor) -> Tensor:
        """Running the whole network is no reading of its head."""
        return super().head(self.features(images))

    def head(self, features: Tensor) -> Tensor:
        """Raises `UndeclaredInputError`."""
        self._refuse()

    @property
    def weight(self) -> Tensor:
        """Raises `UndeclaredInputError`."""
        self._refuse()

    @property
    def bias(self) -> Tensor:
        """Raises `UndeclaredInputError`."""
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise UndeclaredInputError(
            f"Detector '{self._owner}' asked for the classifier's head, which it does not declare; declare it: "
            "needs = {'head'}.",
            "head",
        )


def as_declared(classifier: Classifier, detector: Detector, supplied: Iterable[str] = NEEDS) -> Classifier:
    """The classifier with what a detector declares, of what is supplied: blocks for 'maps', the head for 'head'.

    A detector that declares 'images' or 'network' may read the head undeclared: running the network takes it.
    """
    supplied = set(supplied)
    classifier = classifier if "maps" in detector.needs & supplied else classifier.without_blocks()
    runs = bool(detector.needs & {"images", "network"})
    may_read = "head" in supplied if "head" in detector.needs else runs
    return classifier if may_read else WithoutHead(classifier, detector.name)


def toy_bank_batch(detector: Detector) -> Batch:
    """The toy world's training images with labels and features, as `bank_rows` reads them."""
    world = toy_world()
    with torch.no_grad():
        features = world.classifier.features(torch.from_numpy(world.train.images).float() / 255)
    labels = torch.from_numpy(np.array(world.train.labels))
    return Batch(len(world.train), {"features": features.__getitem__, "labels": labels.__getitem__}, detector.name)


def toy_observe(detector: Detector, images: ImageSet, piece: int = 100) -> None:
    """Call a detector's `observe` with the feature maps of images, `piece` images at a time."""
    labels = torch.from_numpy(np.array(images.labels))
    with torch.no_grad():
        for rows in torch.arange(len(images)).split(piece):
            pixels = torch.from_numpy(images.images[rows.numpy()]).float() / 255
            output = toy_world().classifier.forward_with_maps(pixels)
            detector.observe(output.maps, output.features, output.logits, labels[rows])


class TrainableNetwork(nn.Module):
    """A small trainable network for recipe checks, for images of some number of channels."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 8, 5, stride=4), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 49, 16), nn.ReLU()
        )
        self.head = nn.Linear(16, CLASSES)

    def features(self, images: Tensor) -> Tensor:
        """Penultimate features (N, 16)."""
        features: Tensor = self.body(images)
        return features

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, K)."""
        logits: Tensor = self.head(self.features(images))
        return logits
