"""Compares the training speed of every recipe with cross-entropy's, divided by the network passes its loss needs.

    python perf/recipes.py [--backbone resnet18[width=16]] [--batch-size 64] [--steps 20] [--like standard]

Each recipe trains a network on random images, because no layer's time depends on them; steps of cross-entropy and of
the recipe alternate in one process, so that both see the machine in the same state. Printed are images/s of both (an
image counts once per batch, however many passes it takes), the passes, and the ratio

    (images/s of the recipe) x passes / (images/s of cross-entropy),

which is 1 if a recipe costs nothing beyond its passes, forward and backward. Both use the same optimizer and
augmentation (`--like`), in the middle of their training. `energy_finetune` runs the pretrained network on its first
1,024 images, in the warm-up, and `vos` fills its queues. The last column is the share of the recipe's time that its own
augmentation takes, of those that have one.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterator

import torch
from torch import nn

from oodbench.benchmark import Recipe, Task, TrainBatch, Training
from oodbench.benchmark.plan.precision import train_in
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.benchmark.stages.training.train_loop import floats
from oodbench.detectors._dcgan import gan_networks
from oodbench.detectors._lenet import AUTO, Encoder, sizes_of
from oodbench.detectors._loss_recipe import LossRecipe

PASSES = {
    "logitnorm": 1.0,
    "learned_confidence": 1.0,
    "t2fnorm": 1.0,
    "regmixup": 2.0,
    "outlier_exposure": 2.0,
    "outlier_exposure_finetune": 2.0,
    "energy_finetune": 2.0,
    "mixoe": 2.0,
    "vos": 1.0,
    "supcon": 2.0,
    "cider": 2.0,
    "csi": 8.0,
    "pixmix": 1.0,
    "godin": 1.0,
    "rotpred": 4.0,
    "deep_ensemble": 5.0,
    "dropout": 1.0,
    "ascood": 3.0,
    "reject_class": 2.0,
    "confidence": 2.0,
    "deep_svdd": 1.0,
    "deep_sad": 65 / 64,
}
"""Recipe -> network passes for each ID image. Of `deep_sad`, with one labelled anomaly to a batch of 64."""
OF_ENCODERS = ("deep_svdd", "deep_sad")
"""Recipes with an encoder of their own in place of the backbone; cross-entropy then trains that one, with a head."""
WARM_UP = 1024
"""Images of a recipe that are not timed."""


class EncoderWithHead(Encoder):
    """The encoder of Deep SVDD as a classifier."""

    def __init__(self, classes: int, shape: tuple[int, int, int]) -> None:
        sizes = sizes_of(AUTO, shape[0])
        super().__init__(sizes, shape)
        self.head = nn.Linear(sizes.code, classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (N, K)."""
        logits: torch.Tensor = self.head(self.features(images))
        return logits


def steps(recipe: Recipe, options: argparse.Namespace, device: torch.device, encoder: bool) -> Iterator[float]:
    """Train endlessly; yields the seconds of each step. `encoder`: whether the network is that of `OF_ENCODERS`."""
    torch.manual_seed(0)
    shape, classes = (3, options.side, options.side), 10
    backbone = create("backbone", parse_spec(options.backbone))
    task = Task(classes, shape, lambda: EncoderWithHead(classes, shape) if encoder else backbone.build(classes, shape))
    networks = recipe.networks(task)
    for network in networks.values():
        network.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    given: dict[str, torch.nn.Module] = {}
    if recipe.builds_on:
        given = {"classifier": task.build_classifier(), **gan_networks(16, shape)}
        if encoder:
            given = create("recipe", parse_spec(recipe.builds_on)).networks(task)
        given = {name: network.to(device).eval().requires_grad_(False) for name, network in given.items()}
    training = Training(networks, recipe.optimizers(networks), given, torch.Generator(device).manual_seed(0), 0.5)
    train_in(options.precision, [*networks.values(), *given.values()], device)
    count = options.batch_size
    images, outliers = torch.randint(0, 256, (2, count, *shape), dtype=torch.uint8, device=device)
    labels = torch.arange(count, device=device) % classes
    while True:
        start = time.perf_counter()
        others = floats(outliers) if "outliers" in recipe.needs else None
        recipe.step(training, TrainBatch(floats(images), labels, others))
        finished(device)
        yield time.perf_counter() - start


def timed_augmentation(kind: type[LossRecipe], device: torch.device) -> list[float]:
    """Make a recipe note the seconds of its own augmentation, batch by batch, in the list that is returned."""
    seconds: list[float] = []
    original = kind.augmented

    def augmented(self: LossRecipe, images: torch.Tensor, training: Training) -> torch.Tensor:
        finished(device)
        start = time.perf_counter()
        images = original(self, images, training)
        finished(device)
        seconds.append(time.perf_counter() - start)
        return images

    if original is not LossRecipe.augmented:
        kind.augmented = augmented  # type: ignore[method-assign]
    return seconds


def finished(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def measured(name: str, options: argparse.Namespace, device: torch.device) -> tuple[float, float, float | None]:
    """Median images/s of a recipe and of cross-entropy, step by step in turns; the share of the recipe's augmentation,
    or None if it has none of its own."""
    kind: type[Recipe] = registry.get("recipe", name)
    augmenting = timed_augmentation(kind, device) if issubclass(kind, LossRecipe) else []
    recipe = kind(like=options.like) if issubclass(kind, LossRecipe) else kind()
    like = options.like if issubclass(kind, LossRecipe) else "cross_entropy"
    other = create("recipe", parse_spec(like))
    both = [steps(one, options, device, name in OF_ENCODERS) for one in (recipe, other)]
    for _ in range(2 + -(-WARM_UP // options.batch_size)):
        for one in both:
            next(one)
    seconds: list[list[float]] = [[], []]
    for _ in range(options.steps):
        for one, taken in zip(both, seconds, strict=True):
            taken.append(next(one))
    ours, theirs = (options.batch_size / statistics.median(taken) for taken in seconds)
    share = statistics.median(augmenting[-options.steps :]) / statistics.median(seconds[0]) if augmenting else None
    return ours, theirs, share


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--recipes", default=",".join(PASSES), help="names of recipes, with commas")
    parser.add_argument("--like", default="cross_entropy", help="recipe whose optimizer and augmentation all share")
    parser.add_argument("--steps", type=int, default=20, help="timed steps of each recipe")
    parser.add_argument("--backbone", default="resnet18[width=16]")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--side", type=int, default=32, help="height and width of the images")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--precision", default="float32")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    setting = f"batches of {options.batch_size}, {options.threads} threads, {device}, {options.precision}"
    print(f"{options.backbone}, {setting}, like {options.like}")
    print(f"{'recipe':28}{'images/s':>10}{'cross-entropy':>16}{'passes':>8}{'ratio':>8}{'augmenting':>12}")
    for name in options.recipes.split(","):
        ours, theirs, share = measured(name, options, device)
        ratio = ours * PASSES[name] / theirs
        augmenting = "" if share is None else f"{share:12.0%}"
        print(f"{name:28}{ours:10.1f}{theirs:16.1f}{PASSES[name]:8.1f}{ratio:8.2f}{augmenting}", flush=True)


if __name__ == "__main__":
    main()
