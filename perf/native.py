"""Measures the pass over pictures at their own size against decoding, resizing and the network, each alone.

    python perf/native.py --id PHOTOS --ood OTHERS,MORE --backbone timm:tf_efficientnet_lite0 --checkpoint FILE.pth

PHOTOS holds train/CLASS/IMAGE and test/CLASS/IMAGE, OTHERS and MORE images; the network has its own preprocessing.
Every repeat measures all parts one after the other; printed are the median of the repeats and their range:

- decode: every file read and decoded to RGB, in one thread;
- resize: the preprocessing of the decoded pictures, in one thread;
- forward: the network on blocks of prepared pictures, as the run forwards them;
- pass: the jobs of the run that forward its sets, with an empty store, nothing decoded beforehand;
- loader: a loop over torch's DataLoader with as many workers as cores, the same transform and the same network.

With --pytorch-ood, ten detectors are scored as with that package (each passes every set through the network) and as one
run; both have their networks built and their data indexed before the clock starts.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _spent import Spent, spent
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from oodbench.benchmark import Classifier, Preprocessing
from oodbench.benchmark.api import Prepared, prepare
from oodbench.benchmark.plan.jobs import ExtractJob, FitJob, ScoreJob
from oodbench.benchmark.plugins.networks.parts import device_of
from oodbench.benchmark.stages import dispatch
from oodbench.benchmark.stages.training.train_loop import floats

TEN = "msp,max_logit,energy,entropy,gen,kl_matching,knn,mahalanobis,vim,she"
"""Detectors that both packages have."""


class Alone:
    """The parts of the pass, one by one."""

    def __init__(self, files: Sequence[Path], view: Preprocessing, classifier: Classifier, block: int) -> None:
        self.files, self.view, self.classifier, self.block = files, view, classifier, block
        self.pictures: list[Image.Image] = []
        self.ready = np.empty((len(files), *view.size, 3), np.uint8)

    def decode(self) -> None:
        """Read and decode every file."""
        self.pictures = []
        for file in self.files:
            with Image.open(io.BytesIO(file.read_bytes())) as image:
                self.pictures.append(image.convert("RGB"))

    def resize(self) -> None:
        """Prepare every decoded picture."""
        for row, picture in enumerate(self.pictures):
            self.ready[row] = np.asarray(self.view.apply(picture))

    @torch.inference_mode()
    def forward(self) -> None:
        """Pass the prepared pictures through the network."""
        for start in range(0, len(self.ready), self.block):
            block = torch.from_numpy(self.ready[start : start + self.block]).permute(0, 3, 1, 2)
            self.classifier.head(self.classifier.features(floats(block.to(device_of(self.classifier.network))))).cpu()


class Pictures(Dataset[torch.Tensor]):
    """The files as a plain data set of torch."""

    def __init__(self, files: Sequence[Path], view: Preprocessing) -> None:
        self.files, self.view = files, view

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, row: int) -> torch.Tensor:
        with Image.open(self.files[row]) as image:
            pixels = np.asarray(self.view.apply(image.convert("RGB")))
        return torch.from_numpy(pixels.transpose(2, 0, 1).copy()).float().div_(255)


class Labelled(Pictures):
    """The same with labels: that of the class folder, -1 for OOD pictures."""

    def __init__(self, files: Sequence[Path], view: Preprocessing, labels: Sequence[int]) -> None:
        super().__init__(files, view)
        self.labels = labels

    def __getitem__(self, row: int) -> Any:
        return super().__getitem__(row), self.labels[row]


@torch.inference_mode()
def through_loader(files: Sequence[Path], view: Preprocessing, classifier: Classifier, block: int) -> None:
    """The plain loop of most scripts."""
    device = device_of(classifier.network)
    for images in DataLoader(Pictures(files, view), batch_size=block, num_workers=os.cpu_count() or 1):
        classifier(images.to(device, memory_format=torch.channels_last)).cpu()


def run_jobs(made: Prepared, kinds: tuple[type, ...]) -> None:
    """Run the jobs of these kinds again, in order."""
    for job in made.plan.jobs.values():
        if isinstance(job, kinds):
            dispatch.run_job(made.context, job, lambda _: None)


def sets_of(made: Prepared) -> dict[str, list[Path]]:
    """The files of each pass of a plan, by set and part."""
    found = {}
    for job in made.plan.jobs.values():
        if isinstance(job, ExtractJob):
            data = job.outputs.data
            names = made.context.images(data).names
            if names is None:
                sys.exit(f"{data} has no pictures at their own size: give --resize, or a network with a preprocessing.")
            sources = made.context.library.sources[
                f"{data.set} ({'train' if data.part == 'validation' else data.part})"
            ]
            (folder,) = map(Path, sources)
            found[str(data)] = [folder / name for name in names]
    return found


def with_pytorch_ood(made: Prepared, classifier: Classifier, view: Preprocessing, block: int) -> None:
    """Fit and score ten detectors, each with passes of its own, as its documentation does."""
    from pytorch_ood.detector import (
        GEN,
        KNN,
        SHE,
        EnergyBased,
        Entropy,
        KLMatching,
        Mahalanobis,
        MaxLogit,
        MaxSoftmax,
        ViM,
    )

    network: Any = classifier.network
    sets = sets_of(made)
    weight, bias = classifier.weight.detach(), classifier.bias.detach()
    detectors = [
        *(kind(network) for kind in (MaxSoftmax, MaxLogit, EnergyBased, Entropy, GEN, KLMatching)),
        KNN(network.features),
        Mahalanobis(network.features),
        ViM(network.features, d=min(512, weight.shape[1] // 2), w=weight, b=bias),
        SHE(network.features, network.head),
    ]

    def loader(name: str, labels: Sequence[int]) -> DataLoader[Any]:
        data = Labelled(sets[name], view, labels)
        return DataLoader(data, batch_size=block, num_workers=os.cpu_count() or 1)

    train = next(
        job.outputs.data for job in made.plan.jobs.values() if isinstance(job, ExtractJob) if "train" in str(job)
    )
    labels = made.context.labels(train).tolist()
    scored = [name for name in sets if name.endswith("(test)")]
    for detector in detectors:
        detector.fit(loader(str(train), labels))
        for name in scored:
            for images, _ in loader(name, [0] * len(sets[name])):
                with torch.no_grad():
                    detector.predict(images.contiguous(memory_format=torch.channels_last))


def middle(values: Sequence[float], digits: int = 2) -> str:
    """The median of some repeats with their range."""
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def report(repeats: Sequence[dict[str, Spent]], images: int) -> None:
    """Print seconds of every part, and the ratios that matter."""
    for part in repeats[0]:
        cpu, wall = ([getattr(one[part], clock) for one in repeats] for clock in Spent._fields)
        each = 1000 * statistics.median(cpu) / images
        print(f"{part:8} CPU {middle(cpu)} s, {each:.2f} ms a picture; wall {middle(wall)} s")
    whole = [one["pass"].cpu / sum(one[part].cpu for part in ("decode", "resize", "forward")) for one in repeats]
    larger = [one["pass"].wall / max(one["decode"].wall + one["resize"].wall, one["forward"].wall) for one in repeats]
    print(f"CPU of the pass / (decode + resize + forward): {middle(whole, 3)}")
    print(f"wall of the pass / the larger of (decode + resize, forward): {middle(larger, 3)}")
    for clock in Spent._fields:
        ratios = [getattr(one["loader"], clock) / getattr(one["pass"], clock) for one in repeats]
        print(f"{clock} of a DataLoader loop / the pass: {middle(ratios, 3)}")
    if "pytorch-ood" in repeats[0]:
        for clock in Spent._fields:
            ratios = [getattr(one["pytorch-ood"], clock) / getattr(one["ten"], clock) for one in repeats]
            print(f"{clock} of pytorch-ood's loop of ten detectors / one run of them: {middle(ratios, 2)}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--id", required=True, help="folder of the ID set")
    parser.add_argument("--ood", required=True, help="folders of OOD sets, with commas")
    parser.add_argument("--backbone", required=True)
    parser.add_argument("--checkpoint", default="")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--block", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pytorch-ood", action="store_true", help="on the CPU")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        options: dict[str, Any] = {"id_sets": f"folder:{asked.id}", "backbone": asked.backbone, "device": asked.device}
        options |= {"ood_sets": ",".join(f"folder:{path}" for path in asked.ood.split(","))}
        options |= {"checkpoint": asked.checkpoint, "threads": asked.threads, "block": asked.block, "pixel_cache": 0.0}
        options |= {"results": folder, "stability": False}
        made = prepare(TEN, **options)
        view = made.context.library.files.view.preprocessing
        if view is None:
            sys.exit(f"{asked.backbone} has no preprocessing of its own: give another --backbone.")
        made.context.use_threads()
        others = (FitJob, ScoreJob)
        run_jobs(made, tuple({type(job) for job in made.plan.jobs.values()} - {ExtractJob, *others}))
        extract = next(job for job in made.plan.jobs.values() if isinstance(job, ExtractJob))
        classifier, block = made.context.classifier(extract.checkpoint), extract.block
        files = [file for of_set in sets_of(made).values() for file in of_set]
        alone = Alone(files, view, classifier, block)
        repeats = []
        for _ in range(asked.repeats):
            parts: dict[str, Callable[[], Any]] = {
                "decode": alone.decode,
                "resize": alone.resize,
                "forward": alone.forward,
                "pass": lambda: run_jobs(made, (ExtractJob,)),
                "loader": lambda: through_loader(files, view, classifier, block),
            }
            if asked.pytorch_ood:
                parts["ten"] = lambda: run_jobs(made, (ExtractJob, *others))
                parts["pytorch-ood"] = lambda: with_pytorch_ood(made, classifier, view, block)
            repeats.append({name: spent(work) for name, work in parts.items()})
            shutil.rmtree(Path(folder) / "runs", ignore_errors=True)
    print(
        f"{asked.backbone}, {view}, {len(files):,} pictures in blocks of {block}, {made.plan.threads} threads, "
        f"{asked.device}, {os.cpu_count()} cores, torch {torch.__version__}; median of {asked.repeats} (range)"
    )
    report(repeats, len(files))


if __name__ == "__main__":
    main()
