"""The confidence loss of Lee, Lee, Lee & Shin (ICLR 2018), and helpers of the recipes that use it.

    min_theta  E_in[-log p(y|x)] + beta E_out[KL(U || p(y|x))]            (eq. 1)

U is uniform over the K classes, so KL(U || p) = -log K - (1/K) sum_k log p_k, averaged over the batch. The released
script computes the same as an element mean times K.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from oodbench.detectors._accuracy import share_correct


def kl_to_uniform(logits: Tensor) -> Tensor:
    """KL(U || softmax(logits)) of each row, (N, K) -> (N,), in nats; 0 where the prediction is uniform."""
    return -math.log(logits.shape[1]) - F.log_softmax(logits, dim=1).mean(dim=1)


def logits_of_both(classifier: nn.Module, images: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, K) of ID images and (M, K) of others, which may be outliers, generated images or mixtures: one pass.

    Batch norm sees both together, as in the code of outlier exposure. In a pass of their own, a network could tell the
    others by their statistics, not by their looks. Normalised by the running statistics, it learned to be uncertain
    wherever these are used, as they are for all images at test time (docs/reproduction/neighbours.md).
    """
    one, two = classifier(torch.cat([images, others])).split([len(images), len(others)])
    return one, two


class ConfidenceLosses(NamedTuple):
    """The parts of the confidence loss, and the accuracy on the same images: scalars."""

    cross_entropy: Tensor
    kl_to_uniform: Tensor
    accuracy: Tensor

    def logged(self) -> dict[str, Tensor]:
        """Detached, by name."""
        return {name: value.detach() for name, value in self._asdict().items()}


def confidence_losses(classifier: nn.Module, images: Tensor, labels: Tensor, outliers: Tensor) -> ConfidenceLosses:
    """Cross-entropy on ID images, mean KL to uniform on outliers, and accuracy on ID images."""
    logits, outlier_logits = logits_of_both(classifier, images, outliers)
    ce, kl = F.cross_entropy(logits, labels), kl_to_uniform(outlier_logits).mean()
    return ConfidenceLosses(ce, kl, share_correct(logits, labels))


def confidence_loss(classifier: nn.Module, images: Tensor, labels: Tensor, outliers: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy on ID images and mean KL to uniform on outliers, two scalars (`confidence_losses`)."""
    return confidence_losses(classifier, images, labels, outliers)[:2]


@contextmanager
def frozen_batch_norm(network: nn.Module) -> Iterator[None]:
    """Within the block, batch-norm layers use their running statistics and do not update them."""
    layers = [module for module in network.modules() if isinstance(module, _BatchNorm) and module.training]
    for layer in layers:
        layer.eval()
    try:
        yield
    finally:
        for layer in layers:
            layer.train()


@contextmanager
def fixed_weights(*networks: nn.Module) -> Iterator[None]:
    """Within the block, gradients flow through the networks, but no weight gradients are computed."""
    weights = [p for network in networks for p in network.parameters() if p.requires_grad]
    for weight in weights:
        weight.requires_grad_(False)
    try:
        yield
    finally:
        for weight in weights:
            weight.requires_grad_(True)
