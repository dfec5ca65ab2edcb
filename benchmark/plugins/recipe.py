"""`Recipe`: how a classifier is trained, and the inputs of a training step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar, NamedTuple

from oodbench.benchmark.plugins.base import Plugin

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn


class Recipe(Plugin):
    """How a classifier is trained: its networks, their optimizers, and one training step.

    Define `networks`, `optimizers` and `step`. The loop around them is provided: batches, epochs, the schedule of the
    learning rate, seeds, logs and snapshots. Or define `fit_head` alone, to train a head on stored features. Annotated
    class attributes are the settings, as in `Detector`.

    ```python
    @recipe("label_smoothing", title="Label smoothing")
    class LabelSmoothing(Recipe):
        learning_rate: float = 0.002
        smoothing: float = 0.1

        def networks(self, task: Task) -> dict[str, nn.Module]:
            return {"classifier": task.build_classifier()}

        def optimizers(self, networks: Mapping[str, nn.Module]) -> dict[str, torch.optim.Optimizer]:
            return {"classifier": torch.optim.Adam(networks["classifier"].parameters(), lr=self.learning_rate)}

        def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
            logits = training.networks["classifier"](batch.images)
            loss = F.cross_entropy(logits, batch.labels, label_smoothing=self.smoothing)
            optimizer = training.optimizers["classifier"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            return {"loss": loss.detach()}
    ```
    """

    needs: ClassVar[frozenset[str]] = frozenset()
    """{'outliers'} if training uses the suite's outliers (`TrainBatch.outliers`), else empty."""
    builds_on: ClassVar[str | None] = None
    """Name of another recipe that is trained first, on the same data and seed. Its networks are available as
    `training.given`."""
    trains_classifier: ClassVar[bool] = True
    """False if `networks` returns no network called "classifier". Such a recipe, a GAN for instance, can only be the
    base of another one (`builds_on`)."""
    starts_from_weights: ClassVar[bool] = False
    """True if the classifier starts from weights that the user gives (`--checkpoint`, or a pretrained backbone), and
    the recipe makes no sense without. `networks` still builds it, freshly initialised: the harness then copies the
    given weights into it, all but those of the head where the ID set has another number of classes. So does a recipe
    that defines `fit_head`, whatever it says here."""
    outputs: ClassVar[Mapping[str, int]] = {}
    """Named outputs of the classifier per image, besides features and logits, with their widths: {"confidence": 1}.
    The network called "classifier" then has a method `outputs(features)` that returns them (`WithOutputs` adds it).
    They are computed in the pass that all detectors share, and stored; detectors that declare them in `reads` get
    them."""
    keeps_blocks: ClassVar[bool] = True
    """False if the backbone's blocks are not in the network called "classifier" as they are in the backbone's own, for
    instance because it consists of several. Detectors of feature maps are skipped with it."""
    classifies: ClassVar[bool] = True
    """False if the network called "classifier" has features, and perhaps named outputs, but is not trained to tell
    classes apart: nothing reads its logits, it needs no head, and its cells have no accuracy. Detectors that need
    logits or the head are skipped with it, and ID sets may have a single class."""
    retries: ClassVar[int] = 0
    """How often a training that has diverged is started again, each time from another seed, which follows from the
    run's; the record and a line under the table say so. Above 0 for methods that are known to fail now and then, such
    as GANs; not for one that diverges because its learning rate is too high."""
    uses_seed: ClassVar[bool] = True
    """False if the classifier is the same for every seed, as that of a convex loss is. A run with several seeds then
    says that their spread is not that of training."""

    MAY_BE_SETTINGS: ClassVar[frozenset[str]] = frozenset({"builds_on"})

    def named_outputs(self, task: Task) -> Mapping[str, int]:
        """Return the named outputs with their widths; override it where these depend on the task or on settings.

        Args:
            task: What `networks` is called with. `task.build_classifier` costs time and is rarely needed here.

        Returns:
            Name -> width; `outputs`, the default.
        """
        return self.outputs

    def gives_logits(self) -> bool:
        """Whether the classifier is trained to tell classes apart: `classifies`, unless it depends on settings."""
        return self.classifies

    def networks(self, task: Task) -> dict[str, nn.Module]:
        """Return freshly initialised networks.

        Args:
            task: Number of classes, image shape, and the function that builds the classifier.

        Returns:
            Networks by name; detectors score with the one called "classifier". The random number generators of torch
            are seeded when this is called.
        """
        raise NotImplementedError

    def trained_networks(self, networks: Mapping[str, nn.Module]) -> int:
        """Return how many networks tables count as trained: as many as there are, unless one consists of several.

        Args:
            networks: What `networks` returned, perhaps without memory for its numbers (torch's device "meta").
        """
        return len(networks)

    def optimizers(self, networks: Mapping[str, nn.Module]) -> dict[str, torch.optim.Optimizer]:
        """Return the optimizers by name.

        Args:
            networks: What `networks` returned, on the training device.

        Returns:
            Optimizers with their initial learning rates; the suite's schedule (`milestones`, `decay`) scales them.
        """
        raise NotImplementedError

    def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        """Train on one batch: update every network once.

        Networks are in training mode. Draw random numbers from `training.generator` only, so that a stopped training
        resumes bit for bit.

        Args:
            training: Networks, optimizers, random numbers and progress.
            batch: Images, labels, and outliers if declared.

        Returns:
            Losses by name for the log: finite, detached scalar tensors, with the same names in every step. Their means
            over an epoch are shown as it trains, and stored as CSV. What else is worth following may be among them:
            "accuracy", the share of the batch that is classified correctly, and what `diverged` looks at.
        """
        raise NotImplementedError

    def diverged(self, losses: Mapping[str, float]) -> str | None:
        """Return why a training has failed although its losses and weights are finite; called at the end of an epoch.

        A training with a loss or a weight that is not finite ends without being asked about.

        Args:
            losses: The means of what `step` returned over the images of the epoch.

        Returns:
            A clause, such as "all samples of the generator are alike": the training ends, and the cells that depend on
            it fail with this reason, unless it is started again (`retries`). None, the default, to go on.
        """
        return None

    def fit_head(self, data: HeadData) -> Head:
        """Fit a new linear head to stored features, in place of `networks`, `optimizers` and `step`.

        A recipe that defines it trains in seconds: the given network processes every image once, and its features are
        those of the trained classifier as well. The network's other weights stay as they are.

        Args:
            data: Features of the training images and their labels; features of outliers, if declared.

        Returns:
            Weight and bias of the head, finite. The same for the same data and seed.
        """
        raise NotImplementedError

    def samples(self, training: Training) -> Tensor | None:
        """Return images to store as a picture at the end of training, for generators.

        Returns:
            Images in [0, 1], (N, C, H, W); None, the default, for none.
        """
        return None


class Task(NamedTuple):
    """What a recipe builds its networks for."""

    num_classes: int
    """Number of ID classes, K."""
    image_shape: tuple[int, int, int]
    """Channels, height and width of the images in a batch, (C, H, W): those that the network takes."""
    build_classifier: Callable[[], nn.Module]
    """Returns a freshly initialised network of the run's backbone."""
    repeats_grey: bool = False
    """Whether the ID images are grey, and repeated in the channels of `image_shape` because the network has more than
    one. A generator should then draw one channel and repeat it, or its images are recognised by their colour alone."""


class TrainBatch(NamedTuple):
    """One batch of training images, on the training device."""

    images: Tensor
    """ID images, float32 in [0, 1], (N, C, H, W)."""
    labels: Tensor
    """Class labels, int64 (N,)."""
    outliers: Tensor | None
    """As many outlier images as ID images, float32 in [0, 1], (N, C, H, W); None unless the recipe declares them."""


class Training(NamedTuple):
    """The state of a training that a recipe's step works on."""

    networks: dict[str, nn.Module]
    """The networks that the recipe returned, on the training device."""
    optimizers: dict[str, torch.optim.Optimizer]
    """The optimizers that the recipe returned."""
    given: dict[str, nn.Module]
    """The trained networks of the recipe named in `builds_on`, in evaluation mode and frozen; empty without one."""
    generator: torch.Generator
    """The only source of random numbers in a step, on the training device."""
    progress: float = 0.0
    """Share of all training steps that are done: 0 in the first step, 1 - 1/steps in the last.

    Use it for whatever changes from step to step. A step that sets learning rates must set each to a share of its
    parameter group's "initial_lr", which already contains the suite's schedule (`milestones`, `decay`).
    """
    epoch_images: int = 0
    """Number of ID training images, each of which is in one batch of every epoch; 0 where steps are tried alone."""


class HeadData(NamedTuple):
    """What a head is fitted to, in main memory. Tensors are read-only: features may be larger than memory."""

    features: Tensor
    """The network's features of the ID training images, float32 (N, D)."""
    labels: Tensor
    """Class labels, int64 (N,)."""
    outliers: Tensor | None
    """Features of all outlier images, float32 (M, D); None unless the recipe declares them."""
    num_classes: int
    """Number of ID classes, K."""
    generator: torch.Generator
    """The only source of random numbers, seeded."""


class Head(NamedTuple):
    """A linear head: logits = features @ weight.T + bias."""

    weight: Tensor
    """(K, D), of any floating-point type; stored as float32."""
    bias: Tensor
    """(K,)."""
    losses: Mapping[str, float] = {}
    """Losses at the end of the fit by name, for the log."""


def fits_head(recipe: Recipe | type[Recipe]) -> bool:
    """Whether a recipe fits a head to stored features and trains nothing else."""
    kind = recipe if isinstance(recipe, type) else type(recipe)
    return kind.fit_head is not Recipe.fit_head


def needs_start(recipe: Recipe) -> bool:
    """Whether a recipe starts from given weights."""
    return recipe.starts_from_weights or fits_head(recipe)
