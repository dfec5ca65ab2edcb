"""Compares the harness's training speed, in images per second, with a plain loop of the same algorithm.

    python perf/training.py [--backbone vgg13] [--batch-size 128] [--steps 10] [--images 1280] [--device cuda]

For cross-entropy and for joint training:

- ours: the training job of `bench run` with these options, in a `JobContext` on a store that is deleted afterwards;
- plain: a new implementation of the algorithm of the confidence-loss paper's released script: eager, float32, default
  memory format, a `DataLoader` in this process over PIL images converted to tensors one by one, Adam that is not fused,
  one network pass per term. Joint, per batch: discriminator (real, then detached fakes); generator (non-saturating loss
  + beta KL through the classifier, gradients into every network, zeroed later); classifier (cross-entropy on real
  images in one pass, KL on new fakes, not detached, in another).

Both use the same networks, images and batch sizes in one process, alternately: plain, ours, plain, ours, ... Images are
random, because no layer's time depends on them. Every repetition starts from scratch; its first --warm-up steps and
what follows its last step (writing the checkpoint) are not timed. An image counts once per batch, however many passes
it takes.
"""

from __future__ import annotations

import argparse
import math
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms.functional import to_tensor

from oodbench.benchmark import Dataset as Card
from oodbench.benchmark import ImageSet
from oodbench.benchmark.api import Prepared, prepare
from oodbench.benchmark.data.channels import in_channels
from oodbench.benchmark.plan.jobs import TrainJob
from oodbench.benchmark.plan.recipes.declared import task_of
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.benchmark.stages.dispatch import run_job
from oodbench.benchmark.store.cores import usable_cores

RECIPES = ("cross_entropy", "joint")
RATE, BETA, LATENT = 0.0002, 1.0, 100
SUITE = """
schema = 1
title = "Speed of training"
[protocol]
backbone = "{backbone}"
recipe = "cross_entropy"
[training]
epochs = {epochs}
batch_size = {batch_size}
[recipes.cross_entropy]
learning_rate = {rate}
[recipes.joint]
learning_rate = {rate}
beta = {beta}
[[id]]
set = "perf_images"
ood = [{{ set = "perf_others" }}]
"""


class Clock:
    """Measures images per second, from the end of the warm-up to the last of `total` images."""

    def __init__(self, warm_up: int, total: int, device: torch.device) -> None:
        self.warm_up, self.total, self.device = warm_up, total, device
        self.images = 0
        self.marks: list[tuple[float, int]] = []

    def __call__(self, images: int) -> None:
        """Report that `images` more images have been processed."""
        self.images += images
        if self.images >= (self.total if self.marks else self.warm_up):
            if self.device.type == "cuda":  # only here, because the loops themselves need not wait for the device
                torch.cuda.synchronize(self.device)
            self.marks.append((time.perf_counter(), self.images))

    @property
    def rate(self) -> float:
        """Images per second."""
        (start, before), (end, after) = self.marks
        return (after - before) / (end - start)


class PerSample(Dataset[tuple[Tensor, int]]):
    """Images one by one, as in torchvision's CIFAR-10: array, PIL image, tensor."""

    def __init__(self, images: ImageSet, channels: int) -> None:
        pixels = in_channels(images.images, channels).transpose(0, 2, 3, 1)
        self.pixels = np.ascontiguousarray(pixels[..., 0] if channels == 1 else pixels)
        self.labels = [] if images.labels is None else images.labels.tolist()

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return to_tensor(Image.fromarray(self.pixels[index])), self.labels[index]


def adam(network: nn.Module, **settings: Any) -> torch.optim.Adam:
    return torch.optim.Adam(network.parameters(), lr=RATE, fused=False, **settings)


def plain_cross_entropy(networks: dict[str, nn.Module], device: torch.device) -> Callable[[Tensor, Tensor], None]:
    classifier = networks["classifier"]
    optimizer = adam(classifier)

    def step(images: Tensor, labels: Tensor) -> None:
        optimizer.zero_grad()
        F.cross_entropy(classifier(images), labels).backward()
        optimizer.step()

    return step


def plain_joint(networks: dict[str, nn.Module], device: torch.device) -> Callable[[Tensor, Tensor], None]:
    classifier, generator, discriminator = (networks[n] for n in ("classifier", "generator", "discriminator"))
    optimizer = adam(classifier)
    optimizer_g, optimizer_d = (adam(net, betas=(0.5, 0.999)) for net in (generator, discriminator))

    def judged(images: Tensor, real: float) -> Tensor:
        logits = discriminator(images)
        return F.binary_cross_entropy_with_logits(logits, torch.full_like(logits, real))

    def drawn(count: int) -> Tensor:
        fake: Tensor = generator(torch.randn(count, LATENT, 1, 1, device=device))
        return fake

    def penalty(fake: Tensor) -> Tensor:
        logits = classifier(fake)
        uniform = torch.full_like(logits, 1 / logits.shape[1])
        return F.kl_div(F.log_softmax(logits, dim=1), uniform, reduction="batchmean")

    def step(images: Tensor, labels: Tensor) -> None:
        discriminator.zero_grad()
        judged(images, 1.0).backward()
        fake = drawn(len(images))
        judged(fake.detach(), 0.0).backward()
        optimizer_d.step()

        generator.zero_grad()
        (judged(fake, 1.0) + BETA * penalty(fake)).backward()
        optimizer_g.step()

        optimizer.zero_grad()
        cross_entropy = F.cross_entropy(classifier(images), labels)
        (cross_entropy + BETA * penalty(drawn(len(images)))).backward()
        optimizer.step()

    return step


PLAIN = {"cross_entropy": plain_cross_entropy, "joint": plain_joint}


def run_plain(prepared: Prepared, job: TrainJob, clock: Clock) -> None:
    recipe = create("recipe", parse_spec(job.checkpoint.recipe))
    device = prepared.context.device
    networks = {n: net.to(device).train() for n, net in recipe.networks(task_of(job.checkpoint)).items()}
    step = PLAIN[recipe.name](networks, device)
    samples = PerSample(prepared.context.images(job.train), job.checkpoint.image_shape[0])
    loader = DataLoader(samples, job.schedule.batch_size, shuffle=True)
    for _ in range(job.schedule.epochs):
        for images, labels in loader:
            step(images.to(device), labels.to(device))
            clock(len(images))


def run_ours(prepared: Prepared, job: TrainJob, clock: Clock) -> None:
    run_job(prepared.context, job, clock)


def card(name: str, count: int) -> type[Card]:
    """A data set of random images, `count` of which are used for training."""

    def load(self: Card, split: str, data_dir: Path) -> ImageSet:
        held_out = math.ceil(count / 9)  # one group, because groups are not divided and a tenth is held out
        pixels = np.random.default_rng([*name.encode(), *split.encode()]).integers(
            0, 256, (count + held_out, 3, 32, 32), dtype=np.uint8
        )
        return ImageSet(pixels, np.arange(len(pixels)) % 10, self.classes, np.minimum(np.arange(len(pixels)), count))

    body = {"__module__": __name__, "classes": tuple("0123456789"), "family": name, "version": "1", "load": load}
    random: type[Card] = type(Card)("Random", (Card,), body)
    random.name = name
    registry.adopt("dataset", name, random, "perf/training.py")
    return random


def prepared_run(options: argparse.Namespace, results: Path) -> Prepared:
    steps = math.ceil(options.images / options.batch_size)
    epochs = math.ceil((options.warm_up + options.steps) / steps)
    protocol = {"backbone": options.backbone, "batch_size": options.batch_size, "epochs": epochs}
    suite = results / "perf.toml"
    suite.write_text(SUITE.format(**protocol, rate=RATE, beta=BETA), encoding="utf-8")
    more = {"precision": options.precision} if options.precision else {}
    return prepare(
        "msp,joint",
        suite=str(suite),
        seeds=options.repeats,  # one job per repetition
        device=options.device,
        threads=options.threads,
        results=results,
        **more,
    )


def machine(device: torch.device) -> str:
    """The processor and GPU, with the features that matter for training speed."""
    info = Path("/proc/cpuinfo")
    words = set(info.read_text(encoding="utf-8").split()) if info.is_file() else set()
    flags = [name for name in ("avx2", "avx512f", "avx512_bf16", "amx_tile", "amx_bf16", "bf16") if name in words]
    text = f"{platform.machine()}, torch's kernels {torch.backends.cpu.get_cpu_capability()}, "
    text += f"bf16 and matrix units: {' '.join(flags) or 'none known'}"
    if device.type == "cuda":
        matmul, conv = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
        text += f"; {torch.cuda.get_device_name(device)}, bf16 {torch.cuda.is_bf16_supported()}, "
        text += f"TF32 in matrix products {matmul}, in convolutions {conv}"
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--steps", type=int, default=10, help="minimum number of timed steps per repetition")
    parser.add_argument("--warm-up", type=int, default=2, help="steps before the timed ones")
    parser.add_argument("--repeats", type=int, default=3, help="repetitions of either loop")
    parser.add_argument("--backbone", default="vgg13")
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--images", type=int, default=1280, help="training images")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: as the suite states")
    parser.add_argument("--precision", default="", help="precision of ours; by default that of `bench run`")
    options = parser.parse_args()
    for name in ("perf_images", "perf_others"):
        card(name, options.images)
    with tempfile.TemporaryDirectory() as results:
        prepared = prepared_run(options, Path(results))
        jobs = [job for job in prepared.plan.jobs.values() if isinstance(job, TrainJob)]
        device = prepared.context.device
        print(f"{machine(device)}; {torch.get_num_threads()} threads of {usable_cores()}; torch {torch.__version__}")
        print(f"{options.backbone}, batches of {options.batch_size}, {jobs[0].train.images} images, {device}")
        print("images/s, median (best):    plain            ours             ours / plain     precision of ours")
        for recipe in RECIPES:
            rates: dict[str, list[float]] = {"plain": [], "ours": []}
            of_recipe = [job for job in jobs if job.checkpoint.recipe.partition("[")[0] == recipe]
            for job in of_recipe:
                for name, loop in (("plain", run_plain), ("ours", run_ours)):
                    clock = Clock(options.warm_up * options.batch_size, job.size, device)
                    loop(prepared, job, clock)
                    rates[name].append(clock.rate)
            median = {name: statistics.median(values) for name, values in rates.items()}
            best = {name: max(values) for name, values in rates.items()}
            ratio = median["ours"] / median["plain"], best["ours"] / best["plain"]
            numbers = [f"{median[n]:.1f} ({best[n]:.1f})" for n in rates] + [f"{ratio[0]:.2f} ({ratio[1]:.2f})"]
            used = of_recipe[0].checkpoint.key.content.get("precision", "float32")
            print(f"{recipe:28}" + "".join(f"{text:17}" for text in numbers) + str(used), flush=True)
        print(
            f"{options.repeats} repetitions of both loops alternately, {options.steps} steps or more each after "
            f"{options.warm_up} for warm-up; plain: eager float32, one pass per term, images one by one."
        )


if __name__ == "__main__":
    main()
