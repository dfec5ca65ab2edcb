"""What a plug-in author must read: detectors, recipes, backbones, data sets, and what the harness hands them.

Shapes: N images, C channels, H x W pixels, D features, K classes. Images are uint8 at rest and float32 in [0, 1] when a
network or a detector sees them. A score is higher for images that look more out-of-distribution (OOD), everywhere.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Protocol

import numpy as np
from typing_extensions import dataclass_transform

from oodbench.benchmark.errors import DataError, PluginError

if TYPE_CHECKING:
    import torch
    from matplotlib.figure import Figure
    from torch import Tensor, nn

    from oodbench.benchmark.bank import Bank
    from oodbench.benchmark.studio import Studio

NEEDS = {
    "logits": "the classifier's logits, float64 (N, K)",
    "features": "the penultimate features, float32 (N, D)",
    "images": "the pixels, float32 in [0, 1] (N, C, H, W)",
    "network": "the classifier itself in score(), with gradients where wanted; its passes are declared in `passes`",
    "maps": "the feature maps of the backbone's blocks, in the shared pass: what `reduce` keeps, float32 (N, M)",
    "similarities": "in score(), the cosines with the features of training images (`bank_rows`), float32 (N, B)",
    "outliers": "the suite's outliers, OOD images that training may see (never test images)",
}


def _annotations(cls: type) -> dict[str, Any]:
    """A class's own annotations, names that cannot be evaluated left alone."""
    if sys.version_info >= (3, 14):
        import annotationlib

        return annotationlib.get_annotations(cls, format=annotationlib.Format.FORWARDREF)
    return inspect.get_annotations(cls)


@dataclass_transform(kw_only_default=True, eq_default=False)
class Plugin:
    """A named, frozen set of settings.

    Annotated class attributes are the settings: keyword arguments of the constructor, stored unchanged. What is learned
    later gets a name that ends in an underscore, annotated or not; nothing else can be set.
    """

    name: ClassVar[str] = ""
    title: ClassVar[str] = ""
    paper: ClassVar[str] = ""
    version: ClassVar[str | None] = None
    """Pin it when a change of the source moves no number; without a pin the hash of the source is the version."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        own = _annotations(cls)
        if any(name.endswith("_") for name in own):  # to dataclasses, a class variable is no field
            cls.__annotations__ = {name: ClassVar[Any] if name.endswith("_") else kind for name, kind in own.items()}
        dataclasses.dataclass(kw_only=True, eq=False)(cls)

    def __setattr__(self, name: str, value: object) -> None:
        is_setting = name in {field.name for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        if is_setting and name in self.__dict__:
            raise AttributeError(f"{type(self).__name__}.{name} is a setting and cannot change after construction")
        if not is_setting and not name.endswith("_"):
            raise AttributeError(f"{type(self).__name__}.{name}: what is learned must end in '_' ('{name}_')")
        object.__setattr__(self, name, value)

    @property
    def settings(self) -> dict[str, Any]:
        """The settings as given or defaulted."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]

    def changed_settings(self) -> dict[str, Any]:
        """The settings that differ from their defaults."""
        defaults = {f.name: f.default for f in dataclasses.fields(self)}  # type: ignore[arg-type]
        return {name: value for name, value in self.settings.items() if value != defaults[name]}

    def state(self) -> dict[str, Any]:
        """What was learned: every attribute whose name ends in an underscore."""
        return {name: value for name, value in self.__dict__.items() if name.endswith("_")}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` returned."""
        for name, value in state.items():
            setattr(self, name, value)


class Detector(Plugin):
    """Scores images: a frozen set of settings, an optional `fit`, and `score`.

    `recipe` names the recipe that trains the detector's classifier; without one the detector is post-hoc and uses the
    suite's base recipe. What `needs` does not declare (see `NEEDS`) is not supplied.
    """

    needs: ClassVar[frozenset[str]] = frozenset({"logits"})
    recipe: ClassVar[str | None] = None
    passes: ClassVar[int] = 0
    """Network passes an image that `score` makes itself; needs 'network'."""
    map_settings: ClassVar[tuple[str, ...] | None] = None
    """The settings that `observe` and `reduce` look at; None, the default, for all. Detectors that differ in others
    only share what is kept of the maps."""
    grid: ClassVar[Mapping[str, tuple[Any, ...]]] = {}
    """Settings that may be chosen on held-out data (`bench run --protocol`), each with its candidates; all combinations
    are tried."""
    oriented: ClassVar[bool] = True
    """False for a sanity row, such as a random score, that is not expected to find anything."""

    def refuses(self, network: nn.Module) -> str | None:
        """Say why a network cannot be scored with, before any work; None, the default, if it can.

        `network` is a fresh one of the run's backbone; its weights may be on the meta device, so look, do not compute.
        """
        return None

    def passes_for(self, blocks: int) -> int:
        """`passes` on a network with so many blocks, for detectors that step once a block."""
        return self.passes

    def passes_in_fit(self, blocks: int, validation: int, outliers: int) -> int:
        """How many images `fit` pushes through the network itself; none by default."""
        return 0

    def observe(self, maps: Sequence[Tensor], features: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Learn from a piece of the ID training images' maps what `reduce` needs; for detectors that declare 'maps'.

        Called with consecutive pieces, in the pass that makes the split's logits: what it learns, in names that end in
        '_', is stored, and is there in `reduce`, `fit` and `score`. The training split of a detector that observes is
        not reduced.
        """

    def reduce(self, maps: Sequence[Tensor], features: Tensor, logits: Tensor) -> Tensor:
        """Return what is kept of a few images' maps, finite (N, M), each row from its own image alone.

        `maps` are the outputs of the backbone's blocks, float32 (N, C, H, W), in order, on the classifier's device;
        what was learned is on the CPU. Batches then have the rows as `maps`. A detector that declares 'maps' and does
        not reduce them sees the blocks (`Classifier.blocks`) through the network only.
        """
        raise NotImplementedError

    def bank_rows(self, train: Batch) -> Tensor | None:
        """Which training images the batches' `similarities` are to, rows (B,) of the split; None, the default, for all.

        For detectors that declare 'similarities'; `train` has labels and features. Detectors of equal rows share one
        product of features.
        """
        return None

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Learn from ID training data; nothing to do by default. No test split is reachable from `data`."""

    def score(self, batch: Batch) -> Tensor:
        """Return one finite float an image, shape (N,), higher = more OOD, from that image alone."""
        raise NotImplementedError

    def confidence_of(self, scores: np.ndarray) -> np.ndarray | None:
        """`scores` (N,) on the scale that the method's paper states, higher = more in-distribution, float32 (N,).

        None, the default, where there is no other scale. Only for metric rules that look at values and not at ranks
        alone (`bench run --metrics`); the order must be the score's own, reversed, but for what rounding ties.
        """
        return None


class Recipe(Plugin):
    """How a classifier is trained: networks, optimisers, one step. The harness owns the loop around them.

    `networks()` returns the networks by name; the one called "classifier" is what detectors score with. A recipe
    without it (a GAN, say) serves only as what another recipe `builds_on`.
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    builds_on: ClassVar[str | None] = None
    """Another recipe, trained before this one on the same data and seed; its networks arrive in `training.given`."""
    trains_classifier: ClassVar[bool] = True
    """False where `networks` has none called "classifier"."""

    def networks(self, task: Task) -> dict[str, nn.Module]:
        """Return freshly initialised networks by name; random numbers come seeded from the harness."""
        raise NotImplementedError

    def optimizers(self, networks: Mapping[str, nn.Module]) -> dict[str, torch.optim.Optimizer]:
        """Return the optimisers by name; the harness's schedule scales their learning rates."""
        raise NotImplementedError

    def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        """Make one update of every network and return the named losses, detached scalars."""
        raise NotImplementedError

    def samples(self, training: Training) -> Tensor | None:
        """Images in [0, 1] to keep as a picture at the end of training, (N, C, H, W); none by default."""
        return None


class Backbone(Plugin):
    """A network with features and logits.

    `build` returns a module with `features(images) -> (N, D)`, `head` (a linear layer, features -> logits) and
    `forward(images) = head(features(images))`. Images come in [0, 1]: normalising them is the network's own affair.
    """

    def refuses(self, image_shape: tuple[int, int, int]) -> str | None:
        """Say why (C, H, W) images cannot be used, before any work; None, the default, if they can."""
        return None

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """Return a freshly initialised network for K classes and (C, H, W) images."""
        raise NotImplementedError

    def blocks(self, network: nn.Module) -> list[nn.Module]:
        """Return the modules of a built network whose outputs are its blocks' feature maps, (N, C, H, W), in order.

        Empty, the default, if it has none or does not say. For detectors that look inside, by forward hooks.
        """
        return []

    def weight_name(self, network: nn.Module, name: str) -> str:
        """What a built network calls a weight that others' files (`bench run --checkpoint`) call `name`."""
        return name


class Dataset(Plugin):
    """A data set and its card. `load` returns one split; splits share no image and never change."""

    splits: ClassVar[tuple[str, ...]] = ("train", "test")
    classes: ClassVar[tuple[str, ...]] = ()
    licence: ClassVar[str] = ""
    origin: ClassVar[str] = ""
    """Where the images come from and how to get them."""
    caveats: ClassVar[str] = ""
    """What is known to be wrong with them or different from the canonical form."""
    family: ClassVar[str] = ""
    """The distribution, where several sets sample the same one; the set's own name by default."""
    kin: ClassVar[str] = ""
    """A wider family, where sets differ from one another in processing or law only, such as all noise: no set's cell is
    tuned on its kin. The family by default."""
    checksums: ClassVar[Mapping[str, str]] = {}
    """SHA-256 of each split's content (`ImageSet.checksum`), where it is fixed."""

    def missing(self, data_dir: Path) -> str | None:
        """Say which file to put where if the data is absent; None if it is at hand."""
        return None

    def load(self, split: str, data_dir: Path) -> ImageSet:
        """Return one of `splits`; `data_dir` holds the files of sets that are not embedded."""
        raise NotImplementedError


class Form(Plugin):
    """A fixed change of every image of a set, written NAME+FORM: an inverted, permuted or corrupted set."""

    def apply(self, images: np.ndarray) -> np.ndarray:
        """Return changed copies, uint8 (N, C, H, W) -> the same shape."""
        raise NotImplementedError


class Picture(NamedTuple):
    """One drawn figure and the words under it."""

    name: str
    """The files' name without extension: 'figure' and the plate, and what tells several of one plate apart."""
    figure: Figure
    caption: str
    """Markdown: what is shown, on what data, with which settings, how it differs from the paper, what was measured."""


class Figures(Plugin):
    """The figures of one paper, drawn anew from toys made on the spot and from a finished run.

    A plate is what is drawn or left out as a whole: a figure, or some panels of it ('3ab').
    """

    plates: ClassVar[Mapping[str, str]] = {}
    """Number, with letters where a figure is drawn in parts -> title, in the paper's order."""
    from_run: ClassVar[frozenset[str]] = frozenset()
    """The plates that are drawn from a run."""
    suites: ClassVar[tuple[str, ...]] = ()
    """The suites whose runs serve where none is named, the best first."""

    def missing(self, plate: str, studio: Studio) -> str | None:
        """Say why a plate cannot be drawn, before any work; None, the default, if it can.

        Plates of `from_run` are asked about only where there is a run.
        """
        return None

    def draw(self, plate: str, studio: Studio) -> Iterator[Picture]:
        """Draw one plate; the same seed and inputs give the same bytes."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, eq=False)
class ImageSet:
    """Images of one split, at rest: uint8 (N, C, H, W), labels (N,) where the set has classes.

    `groups` (N,) marks images that depend on each other, such as crops of one photograph: they are never cut apart.
    """

    images: np.ndarray
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    groups: np.ndarray | None = None

    def __post_init__(self) -> None:
        """Refuse what no network could use, naming it."""
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            raise DataError(f"images must be uint8 (N, C, H, W), got {self.images.dtype} {self.images.shape}")
        if len(self.images) == 0:
            raise DataError("an image set must hold at least one image, got none")
        for field in ("labels", "groups"):
            array = getattr(self, field)
            if array is not None and (array.shape != (len(self),) or not np.issubdtype(array.dtype, np.integer)):
                raise DataError(f"{field} must be {len(self)} integers, got {array.dtype} {array.shape}")
        if self.labels is not None and not 0 <= self.labels.min() <= self.labels.max() < len(self.classes):
            raise DataError(
                f"labels must lie in 0..{len(self.classes) - 1} for {len(self.classes)} classes, "
                f"got {self.labels.min()}..{self.labels.max()}"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height, width."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    @cached_property
    def checksum(self) -> str:
        """SHA-256 over shape, pixels, labels and class names; independent of the machine's byte order."""
        digest = hashlib.sha256(repr((self.images.shape, self.classes)).encode())
        digest.update(np.ascontiguousarray(self.images).data)
        if self.labels is not None:
            digest.update(self.labels.astype("<i8").data)
        return digest.hexdigest()

    def with_checksum(self, checksum: str) -> ImageSet:
        """The same images, whose checksum is known and need not be computed again."""
        known = dataclasses.replace(self)
        known.__dict__["checksum"] = checksum
        return known

    def take(self, index: np.ndarray) -> ImageSet:
        """Return the images at `index`, with their labels and groups."""
        return dataclasses.replace(
            self,
            images=self.images[index],
            labels=None if self.labels is None else self.labels[index],
            groups=None if self.groups is None else self.groups[index],
        )


class Network(Protocol):
    """What a backbone builds, as a type."""

    head: nn.Module

    def features(self, images: Tensor) -> Tensor:
        """Return the penultimate features, (N, D)."""
        ...


class Looked(NamedTuple):
    """What one pass shows of N images."""

    maps: list[Tensor]
    """The blocks' outputs, (N, C, H, W) each, in order."""
    features: Tensor
    logits: Tensor


class Classifier:
    """A trained network in evaluation mode, as a detector sees it. Reading it never changes it."""

    def __init__(
        self, network: nn.Module, num_classes: int, blocks: Callable[[nn.Module], Sequence[nn.Module]] | None = None
    ) -> None:
        self.network = network.eval().requires_grad_(False)
        self.num_classes = num_classes
        self._blocks = blocks

    def without_blocks(self) -> Classifier:
        """The same network, for detectors that do not declare 'maps'."""
        other = copy.copy(self)
        other._blocks = None
        return other

    @property
    def blocks(self) -> list[nn.Module]:
        """The modules whose outputs are the blocks' maps, for detectors that declare 'maps'."""
        found = list(self._blocks(self.network)) if self._blocks else []
        if not found:
            raise PluginError(
                "The classifier shows no blocks: a detector that looks at them declares needs = {'maps'}, and the "
                "backbone names them (Backbone.blocks)."
            )
        return found

    def look(self, images: Tensor) -> Looked:
        """One pass with the maps of the blocks on the way."""
        maps: dict[int, Tensor] = {}

        def keep(place: int) -> Callable[..., None]:
            def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
                maps[place] = output.clone()  # what follows may work in place

            return hook

        blocks = self.blocks
        hooks = [block.register_forward_hook(keep(place)) for place, block in enumerate(blocks)]
        try:
            features = self.features(images)
        finally:
            for handle in hooks:
                handle.remove()
        strange = [k for k in range(len(blocks)) if k not in maps or maps[k].ndim != 4 or len(maps[k]) != len(images)]
        if strange:
            shape = tuple(maps[strange[0]].shape) if strange[0] in maps else "nothing"
            raise PluginError(f"Block {strange[0]} of the network gave {shape}; a block's map is (N, C, H, W).")
        return Looked([maps[place].float() for place in range(len(blocks))], features, self.head(features))

    def __call__(self, images: Tensor) -> Tensor:
        """Logits (N, K) of images (N, C, H, W) in [0, 1]."""
        return self.head(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """Penultimate features (N, D)."""
        features: Tensor = self.network.features(images)  # type: ignore[operator]
        return features

    def head(self, features: Tensor) -> Tensor:
        """Logits (N, K) of features (N, D)."""
        logits: Tensor = self.network.head(features)  # type: ignore[operator]
        return logits

    @property
    def weight(self) -> Tensor:
        """The head's weight, (K, D)."""
        return self.network.head.weight  # type: ignore[union-attr,return-value]

    @property
    def bias(self) -> Tensor:
        """The head's bias, (K,)."""
        return self.network.head.bias  # type: ignore[union-attr,return-value]


class Batch:
    """N images as a detector may see them: what its `needs` declare, and nothing else.

    Every part is a tensor with N rows, made when first asked for. `labels` are there in `fit` only.
    """

    def __init__(
        self,
        size: int,
        parts: Mapping[str, Callable[[slice], Tensor]],
        owner: str,
        classifier: Classifier | None = None,
        rows: slice | None = None,
        bank: Bank | None = None,
    ) -> None:
        self._size = size
        self._parts = parts
        self._owner = owner
        self._classifier = classifier
        self._rows = rows or slice(0, size)
        self._bank = bank

    def __len__(self) -> int:
        return self._size

    def _part(self, name: str) -> Tensor:
        if name not in self._parts:
            hint = f"declare it: needs = {{'{name}'}}" if name in NEEDS else "labels are supplied in fit() only"
            if name == "maps":
                hint += ", and reduce(); a training split that observe() has seen has none"
            if name == "similarities":
                hint += ", and ask for it in score()"
            raise PluginError(f"Detector '{self._owner}' asked for '{name}', which it does not declare; {hint}.")
        return self._parts[name](self._rows)

    @cached_property
    def logits(self) -> Tensor:
        """Logits, float64 (N, K): differences of logsumexp in float32 tie where networks are over-confident."""
        return self._part("logits")

    @cached_property
    def features(self) -> Tensor:
        """Penultimate features, float32 (N, D)."""
        return self._part("features")

    @cached_property
    def maps(self) -> Tensor:
        """What the detector's `reduce` has kept of the blocks' maps, float32 (N, M)."""
        return self._part("maps")

    @cached_property
    def similarities(self) -> Tensor:
        """Cosines with the features of the bank's training images, float32 (N, B), good to about 1e-7; in `score` only.

        Shared with other detectors: not to be changed in place.
        """
        return self._part("similarities")

    @property
    def bank(self) -> Bank:
        """The training images behind `similarities`: their features, and cosines in float64; in `score` only."""
        if self._bank is None:
            raise PluginError(
                f"Detector '{self._owner}' asked for the bank; declare needs = {{'similarities'}}, and ask in score()."
            )
        return self._bank

    @cached_property
    def images(self) -> Tensor:
        """Pixels, float32 in [0, 1], (N, C, H, W), on the classifier's device."""
        return self._part("images")

    @cached_property
    def labels(self) -> Tensor:
        """Class labels, int64 (N,); in `fit` only."""
        return self._part("labels")

    @property
    def classifier(self) -> Classifier:
        """The network, for detectors that declare 'network'."""
        if self._classifier is None:
            raise PluginError(
                f"Detector '{self._owner}' asked for the classifier in score(); declare needs = {{'network'}}."
            )
        return self._classifier

    def batches(self, size: int) -> Iterator[Batch]:
        """The same images in consecutive pieces of at most `size`, for fits that must not hold a split in memory."""
        for start in range(0, self._size, size):
            rows = slice(self._rows.start + start, self._rows.start + min(start + size, self._size))
            yield Batch(rows.stop - rows.start, self._parts, self._owner, self._classifier, rows, self._bank)


class FitData(NamedTuple):
    """What `fit` may learn from. There is no test split here, by construction."""

    train: Batch
    """ID training images, labelled."""
    validation: Batch
    """ID images held out of training, labelled."""
    outliers: Batch | None = None
    """The suite's outliers, for detectors that declare them."""
    bank: Tensor | None = None
    """The training images that batches will be compared with, rows (B,), for detectors that declare 'similarities'."""


class Task(NamedTuple):
    """What a recipe builds its networks for."""

    num_classes: int
    image_shape: tuple[int, int, int]
    build_classifier: Callable[[], nn.Module]
    """Returns a freshly initialised network of the run's backbone."""


class TrainBatch(NamedTuple):
    """One training batch on the device."""

    images: Tensor
    """float32 in [0, 1], (N, C, H, W)."""
    labels: Tensor
    """int64 (N,)."""
    outliers: Tensor | None
    """As many outlier images, for recipes that declare them."""


class Training(NamedTuple):
    """A training in progress, as a recipe's step sees it."""

    networks: dict[str, nn.Module]
    optimizers: dict[str, torch.optim.Optimizer]
    given: dict[str, nn.Module]
    """The networks of the recipe it builds on, in evaluation mode, frozen."""
    generator: torch.Generator
    """The only source of random numbers for a step's own draws, on the training device."""
    progress: float = 0.0
    """Share of all the training's steps that are done, 0 in the first and 1 - 1/steps in the last.

    For what changes from step to step. A learning rate that does is to be a share of the parameter group's
    "initial_lr", which holds the rate of the suite's schedule (`milestones`, `decay`).
    """
