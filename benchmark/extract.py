"""One forward pass a checkpoint and split: logits and features of every image, for all detectors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from oodbench.benchmark.contract import Classifier
from oodbench.benchmark.errors import DataError, PluginError
from oodbench.benchmark.jobs import ExtractJob
from oodbench.benchmark.loop import Tick

if TYPE_CHECKING:
    from oodbench.benchmark.work import Bench

EXTRACTION_VERSION = "1"
"""Part of every output's key; raise it when a change of this file changes logits."""

BLOCK = 256
"""Images a pass. The last block is padded to it: logits move in the last bits with the number of images in a batch, so
that the block size is a constant and not a matter of memory or of sharding."""


def extract(bench: Bench, job: ExtractJob, tick: Tick) -> None:
    """Store the logits and features, float32, of one set under one classifier."""
    images = bench.images(job.outputs.data).images
    classifier = bench.classifier(job.checkpoint)
    if images.shape[1:] != job.checkpoint.image_shape:
        raise DataError(
            f"{job.outputs.data} holds {images.shape[1:]} images, but the classifier was trained on "
            f"{job.checkpoint.image_shape}; they must be alike in channels and size."
        )
    features, logits = [], []
    for start in range(0, len(images), BLOCK):
        block = images[start : start + BLOCK]
        f, z = _forward(classifier, block, bench.device)
        features.append(f[: len(block)])
        logits.append(z[: len(block)])
        tick(len(block))
    _store(bench, job, np.concatenate(logits), np.concatenate(features))


@torch.inference_mode()
def _forward(classifier: Classifier, block: np.ndarray, device: torch.device) -> tuple[np.ndarray, np.ndarray]:
    padded = np.zeros((BLOCK, *block.shape[1:]), dtype=np.uint8)
    padded[: len(block)] = block
    images = torch.from_numpy(padded).to(device).float().div_(255).contiguous(memory_format=torch.channels_last)
    features = classifier.features(images)
    return features.float().cpu().numpy(), classifier.head(features).float().cpu().numpy()


def _store(bench: Bench, job: ExtractJob, logits: np.ndarray, features: np.ndarray) -> None:
    if logits.shape[1:] != (job.checkpoint.num_classes,) or not np.isfinite(logits).all():
        raise PluginError(
            f"The classifier's logits on {job.outputs.data} have shape {logits.shape} with "
            f"{np.size(logits) - np.isfinite(logits).sum()} non-finite values; expected finite "
            f"({len(logits)}, {job.checkpoint.num_classes})."
        )
    about = bench.about(job)
    bench.store.save_array(job.outputs.features, features, about)
    bench.store.save_array(job.outputs.logits, logits, about)
