"""Deep SVDD: an encoder that maps ID images close to a fixed point; the score is the squared distance from it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn

from oodbench.benchmark import Batch, Detector, Recipe, Task, TrainBatch, Training, detector, recipe
from oodbench.detectors._confidence_loss import frozen_batch_norm
from oodbench.detectors._lenet import AUTO, Decoder, Encoder, require_network, sizes_of

PAPER = (
    "Ruff, Vandermeulen, Görnitz, Deecke, Siddiqui, Binder, Müller & Kloft, Deep One-Class Classification, ICML 2018"
)
APART = 0.1
"""Distance from 0 to which smaller components of the centre are moved, as in the authors' code: a component of 0 can be
reached by weights of 0."""


def adam(parameters: list[nn.Parameter], rate: float, decay: float) -> torch.optim.Optimizer:
    """Adam with L2 regularisation, as in the authors' code."""
    return torch.optim.Adam(parameters, lr=rate, weight_decay=decay, fused=True)


def require_decay(decay: float) -> None:
    """Raise `ValueError` for a weight decay that is negative or not finite."""
    if not 0 <= decay < float("inf"):
        raise ValueError(f"weight_decay must be 0 or more, and finite, got {decay}")


@contextmanager
def trainable(network: nn.Module, images: Tensor) -> Iterator[None]:
    """Within the block, a batch of one image is normalised by running statistics, because it has no variance."""
    with frozen_batch_norm(network) if len(images) == 1 else nullcontext():
        yield


class Hypersphere(Encoder):
    """An encoder with the centre of its codes, a buffer (D,); `outputs` are their squared distances from it."""

    centre: Tensor

    def __init__(self, network: str, image_shape: tuple[int, int, int]) -> None:
        sizes = sizes_of(network, image_shape[0])
        super().__init__(sizes, image_shape)
        self.register_buffer("centre", torch.zeros(sizes.code))

    def distances(self, codes: Tensor) -> Tensor:
        """|z - c|^2 of codes z (N, D), (N,)."""
        return (codes - self.centre).square().sum(dim=1)

    def outputs(self, features: Tensor) -> dict[str, Tensor]:
        """The squared distance of each code (N, D) from the centre, (N, 1)."""
        return {"distance": self.distances(features)[:, None]}


@recipe(
    "svdd_autoencoder",
    title="Autoencoder of Deep SVDD",
    paper=PAPER,
    display_name="Autoencoder",
    cite="ruff2018svdd",
)
class Autoencoder(Recipe):
    """The mean squared error of reconstructions, by Adam: the pre-training of Deep SVDD and Deep SAD.

    The networks are the authors' LeNets, whatever the suite's backbone: `network` is "mnist" (8 and 4 channels, 32
    features), "fashion" (16 and 32, a layer of 128 units, 64 features) or "cifar10" (32, 64 and 128, 128 features);
    "auto" is "mnist" for grey images and "cifar10" for others. Learning rate 1e-4 and weight decay 5e-4 are the
    authors' on MNIST, with 150 epochs and a tenth of the rate after 50; on CIFAR-10 the code of Deep SVDD takes 5e-7,
    350 epochs and the step after 250. Epochs and their steps are the suite's.
    """

    classifies = False
    keeps_blocks = False
    network: str = AUTO
    learning_rate: float = 1e-4
    weight_decay: float = 5e-4

    def __post_init__(self) -> None:
        """Check the name of the network and the weight decay."""
        require_network(self.network)
        require_decay(self.weight_decay)

    def networks(self, task: Task) -> dict[str, nn.Module]:
        """The encoder, whose codes detectors get as features, and the decoder."""
        sizes = sizes_of(self.network, task.image_shape[0])
        return {"classifier": Encoder(sizes, task.image_shape), "decoder": Decoder(sizes, task.image_shape)}

    def optimizers(self, networks: Mapping[str, nn.Module]) -> dict[str, torch.optim.Optimizer]:
        """One Adam over both networks."""
        weights = [weight for network in networks.values() for weight in network.parameters()]
        return {"autoencoder": adam(weights, self.learning_rate, self.weight_decay)}

    def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        """One step on the mean squared error of all pixels."""
        encoder, decoder = training.networks["classifier"], training.networks["decoder"]
        assert isinstance(decoder, Decoder)
        with trainable(encoder, batch.images), trainable(decoder.hidden, batch.images):
            error = (decoder(encoder(batch.images)) - batch.images).square().mean()
        optimizer = training.optimizers["autoencoder"]
        optimizer.zero_grad()
        error.backward()
        optimizer.step()
        return {"squared_error": error.detach()}


@recipe("deep_svdd", title="Deep SVDD", paper=PAPER, display_name="Deep SVDD", cite="ruff2018svdd")
class DeepSVDDLoss(Recipe):
    """The mean of |f(x) - c|^2 over ID images, with weight decay, from the encoder of the recipe `svdd_autoencoder`.

    The first epoch changes no weight: it computes c, the mean code of all training images under the pre-trained
    encoder, with components below 0.1 moved to 0.1 or -0.1. Network and learning rate are as those of the autoencoder,
    which must have the same setting `network`; weight decay 5e-7, 150 epochs, and a tenth of the rate after 50 are the
    authors'.
    """

    builds_on = "svdd_autoencoder"
    classifies = False
    keeps_blocks = False
    outputs = {"distance": 1}
    network: str = AUTO
    learning_rate: float = 1e-4
    weight_decay: float = 5e-7
    sum_: Tensor
    """Sum of the codes of the ID images so far, float64 (D,), while the centre is being computed."""
    count_: int
    """Their number."""
    centred_: bool
    """Set once the centre is there."""

    def __post_init__(self) -> None:
        """Check the name of the network and the weight decay."""
        require_network(self.network)
        require_decay(self.weight_decay)

    def networks(self, task: Task) -> dict[str, nn.Module]:
        """The encoder with its centre."""
        return {"classifier": Hypersphere(self.network, task.image_shape)}

    def optimizers(self, networks: Mapping[str, nn.Module]) -> dict[str, torch.optim.Optimizer]:
        """Adam over the encoder."""
        weights = list(networks["classifier"].parameters())
        return {"classifier": adam(weights, self.learning_rate, self.weight_decay)}

    def step(self, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        """One step on the loss; in the first epoch, the batch's part of the centre."""
        network = training.networks["classifier"]
        assert isinstance(network, Hypersphere)
        if "centred_" not in self.__dict__:
            return self.centring(network, training, batch)
        with trainable(network, batch.images):
            total, parts = self.losses(network, training, batch)
        optimizer = training.optimizers["classifier"]
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        return {name: part.detach() for name, part in parts.items()}

    def losses(self, network: Hypersphere, training: Training, batch: TrainBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch, and what is logged."""
        distance = network.distances(network(batch.images)).mean()
        return distance, {"distance": distance}

    def centring(self, network: Hypersphere, training: Training, batch: TrainBatch) -> dict[str, Tensor]:
        """Add the codes of a batch to the centre; with the last batch of the epoch, it is complete.

        Logged are the distances from the mean of the codes so far.
        """
        if "sum_" not in self.__dict__:
            start_from(network, training.given["classifier"])
            self.sum_, self.count_ = torch.zeros_like(network.centre, dtype=torch.float64), 0
        with torch.no_grad():
            codes = training.given["classifier"](batch.images).double()
            self.sum_ = self.sum_.to(codes.device) + codes.sum(dim=0)
            self.count_ += len(codes)
            mean = self.sum_ / self.count_
            if self.count_ >= training.epoch_images:
                network.centre.copy_(apart(mean))
                self.centred_ = True
            distance = (codes - mean).square().sum(dim=1).mean().to(network.centre.dtype)
        return dict.fromkeys(self.logged, distance)

    @property
    def logged(self) -> tuple[str, ...]:
        """Names of the losses in the log."""
        return ("distance",)


def start_from(network: Hypersphere, given: nn.Module) -> None:
    """Take the weights and running statistics of a pre-trained encoder over. Raises `ValueError` if it is another."""
    try:
        with torch.no_grad():
            network.load_state_dict({**given.state_dict(), "centre": network.centre})
    except RuntimeError as error:
        raise ValueError(
            "the autoencoder has another network; give recipe 'svdd_autoencoder' the same setting 'network'"
        ) from error


def apart(centre: Tensor) -> Tensor:
    """A centre (D,) whose components are at least 0.1 from 0, those that are exactly 0 excepted, as in their code."""
    moved = torch.where(centre.abs() < APART, APART * centre.sign(), centre)
    return moved


@detector(
    "deep_svdd",
    title="Deep SVDD",
    paper=PAPER,
    display_name="Deep SVDD",
    cite="ruff2018svdd",
)
class DeepSVDD(Detector):
    """|f(x) - c|^2: squared distance of the code from the centre, of an encoder trained to make it small on ID images.

    Differs: the network is one of the authors' LeNets and not the suite's backbone. Images are pixels in [0, 1], as in
    the code of Deep SAD, where the paper normalises contrast. The first of the epochs computes the centre. The
    autoencoder minimises the mean over pixels, as in the code of Deep SAD; that of Deep SVDD takes their sum, and on
    CIFAR-10 adds a batch norm behind the code and Xavier's distribution for the encoder's first weights. The decoder's
    maps grow to images of any size; batches are the suite's (theirs: 200, and 128 for Deep SAD), the last, smaller one
    included, which the code of Deep SAD drops. There is no soft boundary.
    """

    in_all = False
    recipe = "deep_svdd"
    needs = frozenset()
    reads = frozenset({"distance"})

    def score(self, batch: Batch) -> Tensor:
        """The squared distance, 0 or more."""
        return batch.outputs["distance"][:, 0].double()
