"""A classifier with an extra class for generated images, whose probability is the score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from oodbench.benchmark import (
    Batch,
    Detector,
    Recipe,
    Task,
    TrainBatch,
    Training,
    WithOutputs,
    detector,
    recipe,
)
from oodbench.detectors import _cvae, _dcgan
from oodbench.detectors._confidence_loss import logits_of_both
from oodbench.detectors._loss_recipe import Losses, LossRecipe, linear_head, require_not_negative

PAPER = (
    "Vernekar, Gaurav, Denouden, Phan, Abdelzad, Salay & Czarnecki, Analysis of Confident-Classifiers for "
    "Out-of-distribution Detection, 2019 (arXiv:1904.12220)"
)
BOUNDARY = "Vernekar et al., Out-of-distribution Detection in Classifiers via Generation, 2019 (arXiv:1910.04241)"
REJECT = "reject"


class Extended(nn.Module):
    """The logits (N, K + 1) of a classifier with a reject class, which is the last."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: Tensor) -> Tensor:
        """Logits of the K classes and of the reject class."""
        network: Any = self.classifier
        features = network.features(images)
        return torch.cat([network.head(features), network.outputs(features)[REJECT]], dim=1)


def sized(images: Tensor, size: Sequence[int]) -> Tensor:
    """Images (N, C, H, W) at another height and width; as they are if these are theirs.

    Sizes differ while training with `like` "one_cycle" is at small images (`low_side`).
    """
    if list(images.shape[2:]) == list(size):
        return images
    return F.interpolate(images, tuple(size), mode="bilinear", antialias=True)


def rejecting(network: nn.Module) -> WithOutputs:
    """A network with a row more in its linear head, as an output of its own. Raises `DataError` without such a head."""
    head = linear_head(network, "Recipe 'reject_class' adds a row to a linear head")
    return WithOutputs(network, **{REJECT: nn.Linear(head.in_features, 1)})


@recipe(
    "cvae",
    title="Conditional variational autoencoder (no classifier)",
    paper=f"Sohn, Lee & Yan 2015; networks as in {BOUNDARY}",
    display_name="CVAE",
    cite="vernekar2019generation",
)
class CVAE(Recipe):
    """A small class-conditional VAE of the ID images; `reject_class` makes boundary samples with it.

    Minimises the pixels' binary cross-entropy plus KL(q(z|x, y) || N(0, I)), both sums, by Adam.
    """

    trains_classifier = False
    learning_rate: float = 0.001
    latent: int = 8
    width: int = 32

    def __post_init__(self) -> None:
        """Check that there are latent variables and channels."""
        for name in ("latent", "width"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be 1 or more, got {getattr(self, name)}")

    def networks(self, task: Task) -> dict[str, nn.Module]:
        """Encoder and decoder."""
        sizes = (task.image_shape, task.num_classes, self.latent, self.width)
        return {"encoder": _cvae.Encoder(*sizes), "decoder": _cvae.Decoder(*sizes)}

    def optimizers(self, networks: Mapping[str, nn.Module]) -> dict[str, torch.optim.Optimizer]:
        """Adam over both networks."""
        weights = [weight for network in networks.values() for weight in network.parameters()]
        return {"cvae": torch.optim.Adam(weights, lr=self.learning_rate, fused=True)}

    def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        """One step on the negative evidence lower bound, with one z drawn for each image."""
        encoder: Any = training.networks["encoder"]
        decoder: Any = training.networks["decoder"]
        classes = F.one_hot(batch.labels, decoder.classes).to(batch.images.dtype)
        means, log_variances = encoder(batch.images, classes)
        noise = torch.randn(means.shape, generator=training.generator, device=training.generator.device)
        z = means + (log_variances / 2).exp() * noise
        parts = _cvae.negative_elbo(batch.images, decoder(z, classes), means, log_variances)
        pixels, kl = (part.mean() for part in parts)
        optimizer = training.optimizers["cvae"]
        optimizer.zero_grad()
        (pixels + kl).backward()
        optimizer.step()
        return {"pixels": pixels.detach(), "kl_of_latents": kl.detach()}

    @torch.no_grad()
    def samples(self, training: Training) -> Tensor:
        """64 images, decoded from z ~ N(0, I) with the classes in turn."""
        decoder: Any = training.networks["decoder"]
        device = training.generator.device
        z = torch.randn(64, decoder.latent, generator=training.generator, device=device)
        classes = F.one_hot(torch.arange(64, device=device) % decoder.classes, decoder.classes).to(z.dtype)
        images: Tensor = torch.sigmoid(decoder(z, classes))
        return images


@recipe(
    "reject_class",
    title="Reject class for generated images",
    paper=PAPER,
    display_name="Reject class",
    cite="vernekar2019analysis",
)
class RejectClassLoss(LossRecipe):
    """CE over K + 1 classes: mean over ID images + weight x mean over as many generated ones, whose class is the last.

    The images are drawn, new ones in every step, by the frozen networks of the recipe `builds_on`: the generator of
    `joint`, which learned to draw at the boundary of the ID data; that of `gan`, which draws the ID data; or those of
    `cvae`, with which ID images are moved off their manifold or drawn at its boundary. What detectors see as logits are
    those of the K classes; the reject class's is the output "reject".
    """

    outputs = {REJECT: 1}
    builds_on: str = "joint"  # type: ignore[misc]
    weight: float = 1.0

    def __post_init__(self) -> None:
        """Check the weight."""
        super().__post_init__()
        require_not_negative("weight", self.weight)

    def networks(self, task: Task) -> dict[str, nn.Module]:
        """The classifier with a reject class."""
        return {"classifier": rejecting(super().networks(task)["classifier"])}

    @torch.no_grad()
    def generated(self, training: Training, batch: TrainBatch) -> Tensor:
        """As many generated images as ID images, (N, C, H, W). Raises `ValueError` if the networks draw none."""
        given, size = training.given, batch.images.shape[2:]
        if "generator" in given:
            return sized(given["generator"](_dcgan.noise(len(batch.images), training.generator)), size)
        if {"encoder", "decoder"} <= given.keys():
            encoder, decoder = cast("_cvae.Encoder", given["encoder"]), cast("_cvae.Decoder", given["decoder"])
            images = sized(batch.images, (decoder.height, decoder.side))
            return sized(_cvae.boundary_samples(encoder, decoder, images, batch.labels, training.generator), size)
        raise ValueError(f"builds_on must be a recipe that draws images: joint, gan or cvae, got '{self.builds_on}'")

    def losses(self, training: Training, batch: TrainBatch) -> Losses:
        """The mean cross-entropies over K + 1 classes of ID and of generated images."""
        network = Extended(training.networks["classifier"])
        logits, others = logits_of_both(network, batch.images, self.generated(training, batch))
        ce = F.cross_entropy(logits, batch.labels)
        rejected = F.cross_entropy(others, torch.full_like(batch.labels, others.shape[1] - 1))
        parts = {"cross_entropy": ce, "cross_entropy_of_generated": rejected}
        return Losses(ce + self.weight * rejected, parts, logits[:, :-1])


@detector(
    "reject_class",
    title="Probability of a reject class",
    paper=PAPER,
    display_name="Reject class",
    cite="vernekar2019analysis",
)
class RejectClass(Detector):
    """log p(reject) / (1 - p(reject)), p the softmax over K + 1 classes, the last of which are generated images.

    The remedy for classifiers that are trained to be uncertain on samples at the boundary, and stay confident far away
    from the ID data. K + 1 logits are r of the reject class and f_k: the score is r - log sum_k exp f_k.

    Differs: of the paper we could read the abstract, which names no source of the samples, and the authors' code for a
    toy in the plane; the source is our choice: the generator of the recipe `builds_on`, that of `joint` by default,
    trained beforehand and frozen. With `builds_on=cvae` they are the boundary samples of the authors' second paper
    (2019, arXiv:1910.04241), as its released code makes them, but: z has noise in training; radii come from the prior
    N(0, I), not from a Gaussian of each class's latent vectors; the direction off the manifold is uniform in the null
    space; the weight of the reject class is 1, not 0.1 or 0.5; each step draws new samples. Optimizer, schedule and
    augmentation are those of the recipe that `like` names; generated images are not augmented.
    """

    in_all = False
    recipe = "reject_class"
    needs = frozenset({"logits"})
    reads = frozenset({REJECT})

    def score(self, batch: Batch) -> Tensor:
        """The log odds of the reject class, in nats."""
        return batch.outputs[REJECT][:, 0].double() - torch.logsumexp(batch.logits, dim=1)
