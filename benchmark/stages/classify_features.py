"""Logits of a head that was fitted to stored features: no image is processed again."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark.data.pictures.block import BLOCK
from oodbench.benchmark.plan.jobs import ExtractJob
from oodbench.benchmark.stages.context import Tick
from oodbench.benchmark.stages.detecting.set_arrays import as_tensor
from oodbench.benchmark.stages.pass_arrays import refuse_bad_logits

if TYPE_CHECKING:
    from oodbench.benchmark.stages.context import JobContext


def classify_features(context: JobContext, job: ExtractJob, tick: Tick) -> None:
    """Store a set's logits (N, K), float32, from its stored features (N, D).

    In blocks of `BLOCK` like a pass, the last one padded, because the last bits of a product depend on its size.
    """
    features = context.store.load_array(job.outputs.features)
    head = context.classifier(job.checkpoint).head
    logits = np.empty((len(features), job.checkpoint.num_classes), dtype=np.float32)
    for start in range(0, len(features), BLOCK):
        rows = as_tensor(features[start : start + BLOCK], np.float32)
        logits[start : start + len(rows)] = _classified(head, rows, context.device)
        if not job.reductions:  # otherwise the pass that follows counts the images
            tick(len(rows))
    refuse_bad_logits(job, logits.shape[1], len(logits), int(logits.size - np.isfinite(logits).sum()))
    context.store.save_array(job.outputs.logits, logits, context.about(job))


@torch.inference_mode()
def _classified(head: Callable[[Tensor], Tensor], rows: Tensor, device: torch.device) -> np.ndarray:
    """Logits (n, K) of at most `BLOCK` features (n, D)."""
    padded = torch.zeros(BLOCK, rows.shape[1])
    padded[: len(rows)] = rows
    logits: np.ndarray = head(padded.to(device))[: len(rows)].float().cpu().numpy()
    return logits
