"""NAC-UE: how often training images put neurons into the states that an image puts them into."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from oodbench.benchmark import Batch, Classifier, DataError, Detector, FitData, detector
from oodbench.detectors._spaced import spaced

BLOCK = 256
"""Number of images per pass: the gradients keep all activations in memory."""

BASE = 1000.0
"""Of the authors: with many states, the outermost are sqrt(BASE) times as wide as those around 1/2."""


@detector(
    "nac",
    title="NAC-UE (neuron activation coverage)",
    paper="Liu, Tian, Li, Ma & Wang, Neuron Activation Coverage: Rethinking Out-of-distribution Detection and "
    "Generalization, ICLR 2024",
    display_name="NAC-UE",
    cite="liu2024nac",
)
class NAC(Detector):
    """-mean over blocks and channels of min(n / (full N), 1): of N training images, n have the image's state there.

    The state of channel c in a block's map z is sigmoid(alpha s), s = (sum_x z_cx) (sum_x dD / dz_cx) over positions x,
    where D = KL(u || p) of the softmax p from the uniform distribution u; [0, 1] is divided into `bins` states, narrow
    around 1/2 and wide towards 0 and 1: up to 1/2, 1000^state is divided equally, and above it 1000^(1 - state). The
    `last` blocks count, or all of fewer. n is counted in at most `images` training images, equally spaced. Maps may
    have either sign. One pass with gradients per image, and as many as `images` in `fit`.

    The narrow states matter: OOD images have smaller gradients, hence states near 1/2, which few training images share.
    With equal intervals they fall into one state with many of them, and the order turns round.

    Default of `alpha`: at each block 1 / mean |s| over the N training images and all channels, so that states spread
    over [0, 1] whatever the unit of maps and gradients. Authors: chosen for each network and layer on validation OOD
    images, from 0.001 to 3000. Default suite: 0.011, 0.14 and 0.46 on digits (seed 0), 0.017, 0.20 and 0.54 on glyphs.

    Differs: the states are those of the code of their OOD benchmark; that of their NAC-ME divides [0, 1] equally. They
    set M (50 to 1000, which makes M - 2 states), full counts (5 to 5000, of 1,000 images) and alpha for each layer,
    and tune them on validation OOD images; the defaults here are theirs for the last layer of CIFAR-10, M = 50 and 50
    of 1,000 images, as many of each class. Their last layer is the pooled one, whose s is that of the last block but
    for a factor. pytorch-ood multiplies before it pools. On the same s the authors' code gives our order (Spearman
    above 0.9999).
    """

    needs = frozenset({"images", "network", "maps"})
    passes = 1
    grid = {"alpha": (None, 1.0, 100.0, 1000.0), "full": (0.01, 0.05, 0.1), "bins": (48, 498)}
    alpha: float | None = None
    full: float = 0.05
    bins: int = 48
    last: int = 4
    images: int = 1000

    def __post_init__(self) -> None:
        """Check the settings."""
        if self.alpha is not None and not 0 < self.alpha < float("inf"):
            raise ValueError(f"alpha must be positive and finite, or none for the default's rule, got {self.alpha}")
        if not 0 < self.full <= 1:
            raise ValueError(f"full is a share of the training images and must lie in (0, 1], got {self.full}")
        if self.bins < 2 or self.bins % 2:
            raise ValueError(f"bins must be even, half of them on each side of 1/2, got {self.bins}")
        for name in ("last", "images"):
            if (value := getattr(self, name)) < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    def passes_in_fit(self, blocks: int, validation: int, outliers: int) -> int:
        """One pass of each training image that is used."""
        return self.images

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Count the states of training images. Raises `DataError` if all gradients are 0."""
        found = [_products(classifier, images, self.last) for images in self._used(data.train)]
        products = [torch.cat(parts) for parts in zip(*found, strict=True)]
        scales = [float(part.abs().mean()) for part in products]
        if not any(scales):
            raise DataError(
                "NAC-UE reads the gradients of the softmax with respect to feature maps, which are all 0 on the "
                "training images; look at the network and its training."
            )
        self.alphas_ = [self.alpha or 1 / (scale or 1.0) for scale in scales]
        if self.alpha is None:
            self.chosen_ = {"alpha": self.alphas_}
        self.coverage_ = []
        for part, alpha in zip(products, self.alphas_, strict=True):
            counts = torch.zeros(part.shape[1], self.bins, dtype=torch.float64)
            for states in self._states(part, alpha).split(BLOCK):
                counts.scatter_add_(1, states.T, torch.ones(states.T.shape, dtype=torch.float64))
            self.coverage_.append((counts / (self.full * len(part))).clamp_max(1))

    def score(self, batch: Batch) -> Tensor:
        """Negative coverage, from -1 to 0."""
        return torch.cat([self._score(part.classifier, part.images) for part in batch.batches(BLOCK)])

    def _score(self, classifier: Classifier, images: Tensor) -> Tensor:
        products = _products(classifier, images, self.last)
        means = [
            coverage.gather(1, self._states(part, alpha).T).mean(dim=0)
            for part, alpha, coverage in zip(products, self.alphas_, self.coverage_, strict=True)
        ]
        return -torch.stack(means).mean(dim=0)

    def _states(self, products: Tensor, alpha: float) -> Tensor:
        """The bins of s (N, C), int64 (N, C)."""
        return torch.bucketize(torch.sigmoid(alpha * products), _edges(self.bins), right=True)

    def _used(self, train: Batch) -> Iterator[Tensor]:
        """Images of at most `images` training images, equally spaced, at most `BLOCK` at a time."""
        chosen, held = set(spaced(len(train), self.images).tolist()), list[Tensor]()
        for row, one in enumerate(train.batches(1)):
            if row in chosen:
                held.append(one.images)
            if len(held) == BLOCK:
                yield torch.cat(held)
                held = []
        if held:
            yield torch.cat(held)


def _edges(bins: int) -> Tensor:
    """The bounds between states, ascending: float64 (bins - 1)."""
    half = bins // 2
    lower = torch.linspace(1, BASE**0.5, half + 1, dtype=torch.float64).log() / math.log(BASE)
    return torch.cat([lower[1:half], torch.tensor([0.5], dtype=torch.float64), (1 - lower[1:half]).flip(0)])


def _products(classifier: Classifier, images: Tensor, last: int) -> list[Tensor]:
    """s of each of the last blocks: float64 (N, C) on the CPU."""
    kept: list[Tensor] = []

    def keep(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
        kept.append(output if output.requires_grad else output.detach().requires_grad_())
        return kept[-1].clone()  # later layers may change the output in place

    hooks = [block.register_forward_hook(keep) for block in classifier.blocks[-last:]]
    try:
        with torch.enable_grad():
            divergences = -torch.log_softmax(classifier(images).double(), dim=1).mean(dim=1)  # up to a constant
            gradients = torch.autograd.grad(divergences.sum(), kept)
    finally:
        for hook in hooks:
            hook.remove()
    pairs = zip(kept, gradients, strict=True)
    return [(_pooled(z.detach()) * _pooled(gradient)).cpu() for z, gradient in pairs]


def _pooled(maps: Tensor) -> Tensor:
    """Sums over positions of maps (N, C, ...): float64 (N, C)."""
    return maps.double() if maps.ndim == 2 else maps.flatten(2).double().sum(dim=2)
