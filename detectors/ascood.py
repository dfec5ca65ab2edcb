"""ASCOOD: outliers are made of the training images, by changing the pixels that their class depends on most."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oodbench.benchmark import Task, TrainBatch, Training, WithOutputs, detector, recipe
from oodbench.detectors._confidence_loss import fixed_weights, kl_to_uniform, logits_of_both
from oodbench.detectors._loss_recipe import Losses, LossRecipe, linear_head, require_not_negative
from oodbench.detectors.msp import MSP

PAPER = "Regmi, Image-based Outlier Synthesis With Training Data, CVPR 2026 (arXiv:2411.10794)"
GRADIENT, SHUFFLE = "gradient", "shuffle"


def standardised(features: Tensor, sigma: float) -> Tensor:
    """sigma (f - mean) / (sd + 1e-6) of each row, (N, D) -> (N, D); sd with N - 1 in the denominator."""
    away = features - features.mean(dim=1, keepdim=True)
    return sigma * away / (features.std(dim=1, keepdim=True) + 1e-6)


class Standardised(WithOutputs):
    """A network whose features (N, D) have mean 0 and standard deviation `sigma` in every image."""

    def __init__(self, network: nn.Module, sigma: float) -> None:
        super().__init__(network)
        self.sigma = sigma

    def features(self, images: Tensor) -> Tensor:
        """The standardised features, (N, D)."""
        return standardised(super().features(images), self.sigma)


def attributions(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
    """The gradient of each image's own logit, of its class, in each of its values: (N, C, H, W).

    The network is in evaluation mode for it, and gets no gradients.
    """
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        with fixed_weights(network), torch.enable_grad():
            variable = images.detach().requires_grad_()
            own = network(variable).gather(1, labels[:, None]).sum()
            return torch.autograd.grad(own, variable)[0]
    finally:
        for module, training in modes:
            module.training = training


def along_gradient(images: Tensor, gradient: Tensor, share: float, alpha: float) -> Tensor:
    """x + alpha g at the share of values (at least one) where |g| is largest, x elsewhere: (N, C, H, W).

    The result may leave [0, 1], as the authors' does.
    """
    sizes = gradient.abs().flatten(1)
    places = sizes.topk(max(1, int(share * sizes.shape[1])), dim=1).indices
    mask = torch.zeros_like(sizes).scatter_(1, places, 1.0).view_as(images)
    return images + alpha * gradient * mask


def shuffled(images: Tensor, gradient: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """The share of pixels (at least two) where sum_c exp(g_c) is largest in random order, the others as they are."""
    pixels = images.flatten(2)
    sizes = gradient.exp().sum(dim=1).flatten(1)
    places = sizes.topk(max(2, int(share * sizes.shape[1])), dim=1).indices
    order = torch.rand(places.shape, generator=generator, device=generator.device).argsort(dim=1)
    to, of = (index[:, None].expand(-1, images.shape[1], -1) for index in (places, places.gather(1, order)))
    return pixels.scatter(2, to, pixels.gather(2, of)).view_as(images)


@recipe("ascood", title="ASCOOD", paper=PAPER, display_name="ASCOOD", cite="regmi2026ascood")
class ASCOODLoss(LossRecipe):
    """CE + weight KL(U || p), the KL on an outlier made of each image x of the batch, y its class and f_y its logit.

    `synthesis` "gradient": x + alpha df_y/dx at the share `share` of values where the gradient is largest; alpha falls
    linearly from `alpha` to `alpha_end` (none: it stays). "shuffle": the share of pixels where sum_c exp(df_y/dx_c) is
    largest changes places. Features are standardised in each image, to standard deviation `sigma`.
    """

    weight: float = 1.0
    synthesis: str = GRADIENT
    share: float = 0.1
    alpha: float = 0.6
    alpha_end: float | None = None
    sigma: float = 0.5

    def __post_init__(self) -> None:
        """Check the ranges of the settings."""
        super().__post_init__()
        require_not_negative("weight", self.weight)
        if self.synthesis not in (GRADIENT, SHUFFLE):
            raise ValueError(f"synthesis must be {GRADIENT} or {SHUFFLE}, got '{self.synthesis}'")
        if not 0 < self.share <= 1:
            raise ValueError(f"share must be in (0, 1], got {self.share}")
        for name in ("alpha", "alpha_end", "sigma"):
            value = getattr(self, name)
            if value is not None and not 0 < value < float("inf"):
                raise ValueError(f"{name} must be positive and finite, got {value}")

    def networks(self, task: Task) -> dict[str, nn.Module]:
        """The classifier, whose features are standardised. Raises `DataError` if it has no linear head."""
        network = super().networks(task)["classifier"]
        linear_head(network, "Recipe 'ascood' standardises the input of a linear head")
        return {"classifier": Standardised(network, self.sigma)}

    def synthesised(self, training: Training, images: Tensor, labels: Tensor) -> Tensor:
        """One outlier of each image, (N, C, H, W)."""
        gradient = attributions(training.networks["classifier"], images, labels)
        if self.synthesis == SHUFFLE:
            return shuffled(images, gradient, self.share, training.generator)
        end = self.alpha if self.alpha_end is None else self.alpha_end
        return along_gradient(images, gradient, self.share, self.alpha + (end - self.alpha) * training.progress)

    def losses(self, training: Training, batch: TrainBatch) -> Losses:
        """Mean cross-entropy on ID images, and mean KL to uniform on the outliers made of them."""
        others = self.synthesised(training, batch.images, batch.labels)
        logits, other_logits = logits_of_both(training.networks["classifier"], batch.images, others)
        ce, kl = F.cross_entropy(logits, batch.labels), kl_to_uniform(other_logits).mean()
        return Losses(ce + self.weight * kl, {"cross_entropy": ce, "kl_to_uniform": kl}, logits)


@detector("ascood", title="ASCOOD, MSP", paper=PAPER, display_name="ASCOOD", cite="regmi2026ascood")
class ASCOOD(MSP):
    """The MSP score on a classifier trained with CE + KL(U || p), the KL on images x + alpha df_y/dx, changed only at
    the tenth of their values where the gradient of their own logit f_y is largest.

    Its features have mean 0 and standard deviation 0.5 in every image; these are the features that detectors of
    features see (`knn@ascood`).

    Differs: read in the authors' code and OpenOOD's, not in the paper. Their alpha is in units of normalised pixels: 10
    in OpenOOD's file, which in [0, 1] is 10 x 0.25^2 = 0.6, the default here; 300 falling to 30 in the authors', which
    is 19 to 1.9. For CIFAR-10 and CIFAR-100 their scripts shuffle pixels (`synthesis=shuffle`, share 0.15 and 0.1) and
    score with SCALE, which needs features that are not negative; MSP is one of the scores that they publish. Optimizer,
    schedule and augmentation are those of the recipe that the setting `like` names.
    """

    in_all = False
    recipe = "ascood"
