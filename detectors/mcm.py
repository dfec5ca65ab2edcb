"""MCM and GL-MCM: how well an image, and its patches, match the best of the classes' texts."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from oodbench.benchmark import Batch, Classifier, Detector, FitData, detector, unit
from oodbench.detectors._head import head
from oodbench.detectors._softmax import require_temperature
from oodbench.detectors._words import has_texts
from oodbench.detectors.msp import MSP, log_one_minus_max

SINGLE = 0.1
"""Temperature from which `mcm` computes in float32: a rounding of cosines by 1e-7 then changes no term by 1e-6."""

CLASS_COSINES = "cosines of patches with class texts"
"""The kind of maps that GL-MCM reads (`Backbone.map_kind`)."""

NO_TEXTS = (
    "the rows of its head are not the texts of classes; choose a zero-shot backbone such as openclip:ViT-B-16, or give "
    "embeddings of images and class texts with --outputs"
)


def concept_match(cosines: Tensor, temperature: float = 1.0) -> Tensor:
    """max_k softmax_k(cosines / temperature) over the last dimension: (..., K) -> (...), float64."""
    largest: Tensor = torch.softmax(cosines.double() / temperature, dim=-1).amax(dim=-1)
    return largest


@detector(
    "mcm",
    title="MCM (maximum concept matching)",
    paper="Ming, Cai, Gu, Sun, Li & Li, Delving into Out-of-Distribution Detection with Vision-Language "
    "Representations, NeurIPS 2022",
    display_name="MCM",
    cite="ming2022mcm",
)
class MCM(Detector):
    """log(1 - max_k p_k), p = softmax(cos(image, text_k) / temperature): the order of the paper's -max_k p_k.

    The texts are the rows of the head (K, D), whose length and bias do not count. On a zero-shot backbone they are the
    embeddings of the class names; on arrays, give the class texts as the head. No image is needed to fit it. The
    logarithm keeps images apart that a low temperature would tie.

    The temperature 1 of the paper applies to cosines, not to logits, which CLIP multiplies by about 100: the softmax is
    then nearly linear in the cosines. With `temperature=0.01` it is MSP on CLIP's logits.

    Differs: the softmax runs over K classes as in the paper; implementations that apply it to CLIP's logits have
    another temperature. On the same arrays, pytorch-ood 0.4.0 gives the same probability to 1e-9 (rank correlation 1).
    """

    needs = frozenset({"features", "head"})
    in_all = False
    fits_images = False
    grid = {"temperature": (0.01, 0.1, 1.0, 10.0)}
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Check the temperature."""
        require_temperature(self.temperature)

    def refuses(self, network: nn.Module) -> str | None:
        """Refuse a network without a text encoder, whose head is no class texts."""
        return None if has_texts(network) else NO_TEXTS

    def fit(self, classifier: Classifier, data: FitData) -> None:
        """Normalise the class texts."""
        self.texts_ = unit(head(classifier)[0])

    def cosines(self, features: Tensor) -> Tensor:
        """Cosines of image embeddings (N, D) with the class texts, float64 (N, K)."""
        return unit(features) @ self.texts_.T

    def score(self, batch: Batch) -> Tensor:
        """log(1 - p_max), in nats, at most 0."""
        if self.temperature < SINGLE:
            return log_one_minus_max(self.cosines(batch.features) / self.temperature)
        features = batch.features.float()
        lengths = torch.linalg.vector_norm(features, dim=1, keepdim=True).clamp_min_(torch.finfo(torch.float32).tiny)
        products = features @ self.texts_.float().T
        below = products.sub_(products.amax(dim=1, keepdim=True)).div_(lengths.mul_(self.temperature))
        odds = below.exp_().sum(dim=1, dtype=torch.float64) - 1  # (1 - p_max) / p_max
        return -torch.log1p(1 / odds.clamp_min(torch.finfo(torch.float64).tiny))

    def confidence_of(self, scores: np.ndarray) -> np.ndarray | None:
        """max_k p_k, float32."""
        return MSP().confidence_of(scores)


@detector(
    "gl_mcm",
    title="GL-MCM (global and local maximum concept matching)",
    paper="Miyai, Yu, Irie & Aizawa, GL-MCM: Global and Local Maximum Concept Matching for Zero-Shot "
    "Out-of-Distribution Detection, IJCV 2025",
    display_name="GL-MCM",
    cite="miyai2025glmcm",
)
class GLMCM(MCM):
    """-(max_k p_k + weight max_{i,k} p_ik): `mcm` of the image, and of the patch i that matches a class best.

    p_ik = softmax_k(cos(patch_i, text_k) / temperature). The embedding of a patch is what the last attention layer
    would return if the patch attended to itself alone (its values), after the same projection as the image's: see the
    zero-shot backbone. Its cosines with the class texts are the maps that this detector reads; the largest p_ik of an
    image is stored in the shared pass.

    Differs: `weight` is the paper's lambda, 1 by default. The image's own term is not in the log domain, so that the
    two terms add up as in the paper: choose no temperature far below 0.05.
    """

    needs = frozenset({"features", "head", "maps"})
    map_kind = CLASS_COSINES
    map_settings = ("temperature",)
    grid = {"temperature": (0.1, 1.0, 10.0), "weight": (0.5, 1.0, 2.0)}
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Check the settings."""
        super().__post_init__()
        if not 0 <= self.weight < float("inf"):
            raise ValueError(f"weight must be a number from 0, got {self.weight}")

    def reduce(self, maps: Sequence[Tensor], features: Tensor, logits: Tensor) -> Tensor:
        """The largest p_ik, (N, 1), of cosines (N, K, H, W)."""
        return concept_match(maps[-1].movedim(1, -1), self.temperature).flatten(1).amax(dim=1, keepdim=True)

    def score(self, batch: Batch) -> Tensor:
        """Minus the weighted sum, from -(1 + weight) to 0."""
        best = concept_match(self.cosines(batch.features), self.temperature)
        return -(best + self.weight * batch.maps[:, 0].double())

    def confidence_of(self, scores: np.ndarray) -> np.ndarray | None:
        """None: the sum is no probability."""
        return None
