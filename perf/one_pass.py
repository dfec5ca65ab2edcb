"""Measures the cost of all detectors without passes of their own, relative to the bare forward pass of the images.

    python perf/one_pass.py [--train 5000] [--test 1000] [--backbone "resnet18[width=32]"]
    python perf/one_pass.py --suite cifar10-small --data-dir DIR

Without --suite the sets are synthetic: ten classes of noisy patterns, 3 x 32 x 32, and four OOD sets of --test images.
The network has random weights and a head that predicts the nearest class mean (layers take the same time whether
trained or not); the harness gets it as a user's file (`bench run --checkpoint`).

- bare: every image of the run passes through the network once, in the harness's blocks of 256, plus one blocked product
  of all test features with all training features (`training_bank.py`). With --inside the run's own passes are timed
  instead of separate ones: for a machine whose load changes from minute to minute;
- jobs: the jobs of `bench run` for every detector of logits and features and every set, with an empty store: the same
  pass, fit and score, and all files with their checksums;
- run: the jobs and what comes before and after them: the search for training images among the test images, metrics,
  intervals, records. Without reading the data sets, plots and tables.

Every image that the network is arguments in the run is counted by its content, without padding; each must be one of the
run's images and occur once, or this script fails. Ratios to bare are of CPU and of wall-clock seconds, measured one
after the other in this process, without the time for counting.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from oodbench.benchmark import Classifier, Dataset, Detector, ImageSet
from oodbench.benchmark.api import Prepared, prepare
from oodbench.benchmark.data.channels import in_channels
from oodbench.benchmark.data.pictures.block import BLOCK
from oodbench.benchmark.engines.engine import Quiet
from oodbench.benchmark.plan.jobs import ExtractJob, FitJob, Job, ScoreJob, TrainJob
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.benchmark.plugins.training_bank import TrainingBank
from oodbench.benchmark.runner.runner import run_plan
from oodbench.benchmark.stages import dispatch
from oodbench.benchmark.stages.context import JobContext, Tick
from oodbench.benchmark.stages.memory import keep_freed_memory
from oodbench.benchmark.stages.training.train_loop import floats

MOST = 8
"""Number of jobs listed with their time."""
FEWEST = 25
"""Minimum number of detectors measured."""
SIDE, CLASSES = 32, 10
OOD = {"perf_blends": 0.5, "perf_weak": 0.3, "perf_others": 1.0, "perf_noise": 0.0}
SUITE = f"""
schema = 1
title = "One pass"
[protocol]
backbone = "small_cnn"
recipe = "cross_entropy"
[training]
epochs = 1
[[id]]
set = "perf_known"
ood = [{", ".join(f'{{ set = "{name}" }}' for name in OOD)}]
"""
Seconds = tuple[float, float]
"""CPU, wall clock."""


def images_of(kind: str, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy patterns, uint8 (count, 3, SIDE, SIDE), and their classes."""
    patterns = np.random.default_rng(0).standard_normal((2, CLASSES, 3, SIDE, SIDE), dtype=np.float32)
    random = np.random.default_rng(seed)
    labels = np.arange(count) % CLASSES
    shown = patterns[int(kind == "perf_others")][labels] * OOD.get(kind, 1.0)
    if kind == "perf_blends":
        shown = shown + 0.5 * patterns[0][(labels + 1) % CLASSES]
    noisy = 128 + 30 * (shown + random.standard_normal(shown.shape, dtype=np.float32))
    return np.clip(noisy, 0, 255).astype(np.uint8), labels


def register(train: int, test: int) -> None:
    """Register the synthetic sets by name."""
    for place, name in enumerate(("perf_known", *OOD)):

        def load(self: Dataset, split: str, data_dir: Path, place: int = place) -> ImageSet:
            count, seed = (train, 2 * place + 1) if split == "train" else (test, 2 * place + 2)
            images, labels = images_of(self.name, count, seed)
            return ImageSet(images, labels, self.classes) if self.name == "perf_known" else ImageSet(images)

        body = {
            "__module__": __name__,
            "classes": tuple("0123456789") if not place else (),
            "version": "1",
            "load": load,
        }
        synthetic: type[Dataset] = type("Synthetic", (Dataset,), body)
        synthetic.name = name
        registry.adopt("dataset", name, synthetic, "perf/one_pass.py")


def single_pass_detectors() -> list[str]:
    """Every registered post-hoc detector of logits, features and similarities."""
    names = []
    for name in registry.entries("detector"):
        found: type[Detector] = registry.get("detector", name)
        if found.needs <= {"logits", "features", "similarities", "head"} and found.recipe is None:
            names.append(name)
    if len(names) < FEWEST:
        sys.exit(f"{len(names)} detectors need no pass of their own, fewer than {FEWEST}: {', '.join(names)}")
    return names


def write_weights(backbone: str, images: ImageSet, shape: tuple[int, int, int], path: Path) -> None:
    """Write a network with random weights and a head that predicts the nearest mean of some training features."""
    torch.manual_seed(0)
    network = create("backbone", parse_spec(backbone)).build(len(images.classes), shape).eval()
    rows = np.linspace(0, len(images) - 1, min(4 * BLOCK, len(images)), dtype=np.int64)  # a file may be sorted by class
    some = torch.from_numpy(np.array(in_channels(images.images[rows], shape[0])))
    labels = torch.from_numpy(np.array(images.labels)[rows].astype(np.int64))
    with torch.inference_mode():
        features = torch.cat([network.features(floats(part)) for part in some.split(BLOCK)])
        means = torch.stack([features[labels == k].mean(dim=0) for k in range(len(images.classes))])
        weights, lengths = network.state_dict(), (means**2).sum(dim=1) / 2
        scale = 5 / (features @ means.T).std()
        weights["head.weight"], weights["head.bias"] = scale * means, scale * (lengths.max() - lengths)
    save_file({name: value.contiguous().clone() for name, value in weights.items()}, path)


@contextmanager
def clocked(spent: list[float]) -> Iterator[None]:
    """Add the CPU and wall-clock seconds of the block to `spent`."""
    cpu, wall = time.process_time(), time.perf_counter()
    yield
    spent[0] += time.process_time() - cpu
    spent[1] += time.perf_counter() - wall


@contextmanager
def counted(seen: Counter[bytes], spent: list[float], passes: list[float]) -> Iterator[None]:
    """Count the images arguments to networks, without black ones (padding); time the counting, and the passes."""
    original = Classifier.features

    def features(self: Classifier, images: Tensor) -> Tensor:
        with clocked(spent):
            for image in (255 * images).round().byte().contiguous().numpy():
                if image.any():
                    seen[hashlib.blake2b(image.tobytes(), digest_size=16).digest()] += 1
        with clocked(passes):
            found = original(self, images)
        return found

    Classifier.features = features  # type: ignore[method-assign]
    try:
        yield
    finally:
        Classifier.features = original  # type: ignore[method-assign]


def sets_of(made: Prepared) -> dict[str, np.ndarray]:
    """The images of each pass of a plan, in the network's channels, by set and part."""
    sets = {}
    for job in passes(made):
        images = made.context.images(job.outputs.data).images
        sets[str(job.outputs.data)] = in_channels(images, job.checkpoint.image_shape[0])
    return sets


def passed(made: Prepared, sets: dict[str, np.ndarray]) -> tuple[Seconds, dict[str, Tensor]]:
    """Seconds of one forward pass over every image, and the features."""
    (classifier,) = {job.checkpoint.key: made.context.classifier(job.checkpoint) for job in passes(made)}.values()
    features: dict[str, Tensor] = {}
    spent = [0.0, 0.0]
    with torch.inference_mode(), keep_freed_memory(), clocked(spent):
        for name, images in sets.items():
            parts = []
            for start in range(0, len(images), BLOCK):
                found = classifier.features(floats(torch.from_numpy(np.array(images[start : start + BLOCK]))))
                classifier.head(found)
                parts.append(found)
            features[name] = torch.cat(parts)
    return (spent[0], spent[1]), features


def multiplied(features: dict[str, Tensor]) -> Seconds:
    """Seconds of one product of all test sets with the training split."""
    spent = [0.0, 0.0]
    with torch.inference_mode(), clocked(spent):
        bank = TrainingBank(next(part for name, part in features.items() if name.endswith("(train)")).numpy())
        for name, of_set in features.items():
            for part in of_set.split(bank.block) if name.endswith("(test)") else ():
                bank.similarities(part)
    return spent[0], spent[1]


def stored(made: Prepared) -> dict[str, Tensor]:
    """The features stored by the run, by set and part."""
    load = made.context.store.load_array
    return {str(job.outputs.data): torch.from_numpy(np.array(load(job.outputs.features))) for job in passes(made)}


def passes(made: Prepared) -> list[ExtractJob]:
    """The passes of a plan."""
    return [job for job in made.plan.jobs.values() if isinstance(job, ExtractJob)]


def ours(made: Prepared) -> tuple[dict[str, Seconds], Seconds, list[tuple[str, float]], Counter[bytes]]:
    """Seconds of the jobs and of the run, of its passes, CPU seconds by kind of job (sorted), counts of the images."""
    seen: Counter[bytes] = Counter()
    spent: dict[str, float] = {}
    counting, passes, jobs, run = ([0.0, 0.0] for _ in range(4))
    run_job = dispatch.run_job

    def timed(context: JobContext, job: Job, tick: Tick) -> None:
        before = jobs[0] - counting[0]
        with clocked(jobs):
            run_job(context, job, tick)
        kind = (f"{job.kind} {job.detector}" if isinstance(job, FitJob | ScoreJob) else job.kind).partition("@")[0]
        spent[kind] = spent.get(kind, 0.0) + jobs[0] - counting[0] - before

    dispatch.run_job = timed
    with counted(seen, counting, passes), clocked(run):
        done = run_plan(made.plan, made.work, made.context, made.run_dir, made.asked, Quiet())
    dispatch.run_job = run_job
    if failed := {record.label: record.reason for record in done.records if record.status != "ok"}:
        sys.exit(f"These detectors failed: {failed}")
    seconds = {name: (s[0] - counting[0], s[1] - counting[1]) for name, s in (("jobs", jobs), ("run", run))}
    return seconds, (passes[0], passes[1]), sorted(spent.items(), key=lambda item: -item[1]), seen


def main() -> None:
    """Print the configuration, the counts and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", default="", help="a suite with one ID set, instead of the synthetic sets")
    parser.add_argument("--data-dir", default="data", help="where the suite's files are")
    parser.add_argument("--train", type=int, default=5000, help="training images of the synthetic set")
    parser.add_argument("--test", type=int, default=1000, help="images of each synthetic test set")
    parser.add_argument("--backbone", default="resnet18[width=32]")
    parser.add_argument("--detectors", default="", help="detectors separated by commas; by default all")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--inside", action="store_true", help="use the times of the run's own passes for bare")
    arguments = parser.parse_args()
    register(arguments.train, arguments.test)
    names = arguments.detectors.split(",") if arguments.detectors else single_pass_detectors()
    with tempfile.TemporaryDirectory() as folder:
        file, suite = Path(folder) / "weights.safetensors", arguments.suite
        if not suite:
            suite = str(Path(folder) / "one_pass.toml")
            Path(suite).write_text(SUITE, encoding="utf-8")
        options = {"suite": suite, "data_dir": arguments.data_dir, "results": folder, "threads": arguments.threads}
        fixed = {"backbone": arguments.backbone, "device": "cpu", **options}
        planned = prepare("msp", name="look", **fixed)
        known = {cell.record.id_set for cell in planned.plan.cells}
        if len(known) > 1:
            sys.exit(f"The suite has {len(known)} ID sets, {', '.join(sorted(known))}; give one with a single ID set.")
        job = next(job for job in planned.plan.jobs.values() if isinstance(job, TrainJob))
        write_weights(arguments.backbone, planned.context.images(job.train), job.checkpoint.image_shape, file)
        made = prepare(names, checkpoint=file, **fixed)
        sets = sets_of(made)
        seconds, inside, spent, seen = ours(made)
        expected = Counter(
            hashlib.blake2b(image.tobytes(), digest_size=16).digest()
            for images in sets.values()
            for image in images
            if image.any()
        )
        if seen != expected:
            sys.exit(f"{sum(seen.values()):,} images were forwarded, {sum(expected.values()):,} are in the run's sets")
        alone, features = (inside, stored(made)) if arguments.inside else passed(made, sets)
        product = multiplied(features)
    print(
        f"{known.pop()}: {len(names)} detectors, {arguments.backbone}, {arguments.threads} thread(s), "
        f"torch {torch.__version__}"
    )
    print("; ".join(f"{name} {len(images):,}" for name, images in sets.items()))
    print(f"{sum(expected.values()):,} images in these sets, {sum(seen.values()):,} forwarded, each one once")
    for place, clock in enumerate(("CPU", "wall-clock")):
        base = alone[place] + product[place]
        ratios = [f"{name} {mine[place]:.1f} s ({mine[place] / base:.3f} times)" for name, mine in seconds.items()]
        print(f"{clock}: bare pass {alone[place]:.1f} s, product {product[place]:.1f} s, {', '.join(ratios)}")
    most = ", ".join(f"{kind} {seconds:.1f}" for kind, seconds in spent[:MOST])
    rest = sum(seconds for _, seconds in spent[MOST:])
    print(f"CPU seconds in the jobs: {inside[0]:.1f} in the network; {most}; all others {rest:.1f}")


if __name__ == "__main__":
    main()
