"""Passes a set of images through a network in memory, batch by batch."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from oodbench.benchmark.data.outputs import GivenArrays
from oodbench.benchmark.errors import DataError, OodbenchError, UserError, counted
from oodbench.benchmark.plan.precision import in_float32
from oodbench.benchmark.plugins.networks.parts import Parts, ReadOutputs, device_of, reading
from oodbench.benchmark.plugins.networks.search import find_parts
from oodbench.benchmark.stages.models.items import item_of, labels_of
from oodbench.benchmark.stages.models.rows import Rows
from oodbench.benchmark.stages.models.sources import Source

logger = logging.getLogger(__name__)

REPORTED = 10.0
"""Seconds between two messages about a set."""


class Batch(NamedTuple):
    """Images and labels as they were read."""

    images: Tensor
    labels: NDArray[np.int64] | None


def batches_of(source: Source, labelled: bool = True) -> Iterator[Batch]:
    """The batches of a set. Raises `UserError`, with the number of images before it, for one that cannot be used.

    `labelled`: whether labels are read; those of OOD sets mean nothing here.
    """
    done = 0
    try:
        for value in source.batches():
            item = item_of(value, source.title)
            _refuse_single(item.images, item.labels, source.title)
            yield Batch(item.images, labels_of(item.labels, len(item.images), source.title) if labelled else None)
            done += len(item.images)
    except OodbenchError:
        raise
    except Exception as error:  # the user's data set may raise anything
        lines = str(error).strip().splitlines() or [""]
        text = lines[-1] if lines[0].startswith("Caught ") else lines[0]  # the former: raised by a loader's process
        name = type(error).__name__
        reason = text if text.startswith(name) else f"{name}: {text}"
        raise UserError(
            f"{source.title} cannot be read, after {counted(done, 'image')}: {reason.rstrip('.')}."
        ) from error


def _refuse_single(images: Tensor, labels: object, title: str) -> None:
    is_single = images.ndim == 3 and (isinstance(labels, int) or (isinstance(labels, Tensor) and labels.ndim == 0))
    if is_single or images.ndim < 2 or not len(images):
        shape = tuple(images.shape)
        raise UserError(
            f"{title} yields images of shape {shape}, expected batches (N, C, H, W). Wrap it: torch.utils.data."
            "DataLoader(..., batch_size=64)."
        )


class Pass:
    """One network, whose head and features are found in the first batch that it sees."""

    def __init__(self, network: nn.Module, features: str = "", head: str = "", folder: Path | None = None) -> None:
        """`features`, `head`: names of modules (`find_parts`); `folder`: for temporary files."""
        self.network, self._named, self._folder = network, (features, head), folder
        self.parts: Parts | None = None

    def arrays(self, source: Source, labelled: bool = True) -> GivenArrays:
        """Logits, features and labels of a set. Raises `UserError` or `DataError` for what cannot be used."""
        with in_float32(device_of(self.network)):
            return self._arrays(source, labelled)

    def _arrays(self, source: Source, labelled: bool) -> GivenArrays:
        batches = batches_of(source, labelled)
        first = next(batches, None)
        if first is None:
            raise UserError(f"{source.title} has no images. If it is a generator, it may have been read already.")
        if self.parts is None:
            self.parts = find_parts(self.network, first.images, *self._named)
        report, where = _report(source), self._folder
        with (
            Rows(where) as logits,
            Rows(where) as features,
            Rows(where) as labels,
            reading(self.network, self.parts) as read,
        ):
            for batch in itertools.chain([first], batches):
                outputs = self._outputs(read, batch.images, source, logits.count)
                logits.add(outputs.logits.cpu().numpy())
                features.add(outputs.features.cpu().numpy().astype(np.float32, copy=False))
                if batch.labels is not None:
                    labels.add(batch.labels)
                report(logits.count)
            if labels.count not in (0, logits.count):
                raise UserError(
                    f"{source.title} has {counted(logits.count, 'image')}, and labels for {labels.count:,} of them."
                )
            names = source.names if source.names is not None and len(source.names) == logits.count else None
            known = labels.array() if labels.count else None
            return GivenArrays(logits.count, logits.array(), features.array(), known, names)

    def _outputs(
        self, read: Callable[[Tensor], ReadOutputs], images: Tensor, source: Source, before: int
    ) -> ReadOutputs:
        title = type(self.network).__name__
        try:
            outputs = read(images)
        except (OodbenchError, torch.cuda.OutOfMemoryError):
            raise
        except Exception as error:  # the user's network may raise anything
            shape, reason = tuple(images.shape), str(error).strip().partition("\n")[0].rstrip(".")
            raise UserError(
                f"{title} fails on a batch of {source.title}, of shape {shape}, after {counted(before, 'image')}: "
                f"{reason}."
            ) from error
        for name, part in zip(outputs._fields, outputs, strict=True):
            bad = ~torch.isfinite(part).all(dim=1)
            if bad.any():
                row = before + int(bad.nonzero()[0])
                named = f" ('{source.names[row]}')" if source.names is not None else ""
                raise DataError(
                    f"{title} returns {name} that are NaN or infinite for image {row} of {source.title}{named}. Check "
                    "its input, and whether its precision overflows."
                )
        return outputs


def _report(source: Source) -> Callable[[int], None]:
    """A function that logs, now and then, how many images are done."""
    start = last = time.monotonic()

    def report(done: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > REPORTED:
            last = now
            of = f" of {source.count:,}" if source.count else ""
            logger.info(f"{source.title}: {done:,}{of} images, {done / (now - start):,.0f} per second")

    return report
