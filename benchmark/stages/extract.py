"""One forward pass per checkpoint and set, for all detectors: logits, features, named outputs, reduced feature maps."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark.data.channels import are_convertible, in_channels
from oodbench.benchmark.errors import DataError, PluginError, StoreError
from oodbench.benchmark.plan.jobs import ExtractJob, ReduceMapsJob
from oodbench.benchmark.plan.used_code import refuse_other_code
from oodbench.benchmark.plugins.detector import Detector
from oodbench.benchmark.plugins.inputs import Classifier, ForwardOutput
from oodbench.benchmark.plugins.pictures import Images, chosen, in_blocks
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.benchmark.stages import memory
from oodbench.benchmark.stages.context import Tick
from oodbench.benchmark.stages.detector_state import load_state, save_state
from oodbench.benchmark.stages.pass_arrays import GrowingArray, PassArrays
from oodbench.benchmark.stages.training.train_loop import floats
from oodbench.benchmark.store.locks import PASS

if TYPE_CHECKING:
    from oodbench.benchmark.stages.context import JobContext

logger = logging.getLogger(__name__)


class _MapReducer:
    """Collects one detector's reductions during the shared forward pass; if it raises, only this detector fails."""

    def __init__(self, context: JobContext, job: ReduceMapsJob, folder: Path) -> None:
        self.context, self.job = context, job
        self.rows = GrowingArray(folder / f"{job.id}.npy", job.data.images)
        self.error: Exception | None = None
        self.detector: Detector = create("detector", parse_spec(job.detector))
        self._refuse_other_code()
        if job.observed is not None:
            if (path := context.store.find(job.observed)) is None:
                self.error = PluginError(
                    f"What '{job.detector}' learns from the training split's maps is not in the store."
                )
            else:
                load_state(self.detector, path)

    def update(self, output: ForwardOutput, labels: Tensor | None) -> None:
        """Pass the detector one block; `labels` (N,) are needed by detectors that learn from maps."""
        if self.error is not None:
            return
        try:
            if not self.job.learns:
                self.rows.add(checked_reduction(self.detector, output).cpu().numpy())
            elif labels is not None:
                self.detector.observe(output.maps, output.features, output.logits, labels)
        except StoreError:
            raise
        except Exception as error:  # a plug-in may raise anything
            self.error = error

    def save(self, about: dict[str, object]) -> None:
        """Store what the detector kept or learned, or note in the context why there is nothing."""
        self._refuse_other_code()
        if self.error is None and not self.job.learns:
            self.rows.save(self.context, self.job.makes[0], about)
        elif self.error is None:
            try:
                self.context.store.save(self.job.makes[0], lambda path: save_state(self.detector, path), about)
            except PluginError as error:  # its state cannot be stored
                self.error = error
        if self.error is not None:
            self.context.failed_reductions[self.job.id] = self.error

    def _refuse_other_code(self) -> None:
        try:
            refuse_other_code(self.job)
        except PluginError as error:
            self.error = self.error or error


def extract(context: JobContext, job: ExtractJob, tick: Tick) -> None:
    """Store one set's logits (N, K), features (N, D), named outputs (N, W) and map reductions (N, M), from one pass."""
    images = chosen(context.images(job.outputs.data).images, slice(*job.rows or (None,)))
    classifier = context.classifier(job.checkpoint)
    taken = job.checkpoint.image_shape
    if images.shape[2:] != taken[1:] or not are_convertible(images.shape[1], taken[0]):
        raise DataError(
            f"{job.outputs.data} holds {images.shape[1:]} images, but the classifier was trained on {taken}; they must "
            "have the same channels and size, or the same size in grey and in colour."
        )
    learning = any(reduction.learns for reduction in job.reductions)
    labels = torch.from_numpy(context.labels(job.outputs.data).astype(np.int64)) if learning else None
    with tempfile.TemporaryDirectory(dir=_root(context), prefix=PASS) as name:
        folder = Path(name)
        arrays = None if job.stored else PassArrays(job, folder, len(images), classifier)
        reducers = [_MapReducer(context, reduction, folder) for reduction in job.reductions]
        blocks = _Blocks(context, job, classifier)
        for rows, output in blocks.of(images):
            if arrays is not None:
                arrays.add(output, blocks.size)
            block_labels = None if labels is None else labels[rows].to(context.device)
            with torch.inference_mode():
                for reducer in reducers:
                    reducer.update(output, block_labels)
            tick(len(output.features))
        about = context.about(job, **({"block": blocks.size} if blocks.size < job.block else {}))
        if arrays is not None:
            arrays.save(context, about)
        for reducer in reducers:
            reducer.save(about)


def check_reduction_made(context: JobContext, job: ReduceMapsJob, tick: Tick) -> None:
    """Raise the error with which a detector failed in the set's pass; if there is none, its reductions are stored."""
    if (error := context.failed_reductions.pop(job.id, None)) is not None:
        raise error
    context.store.require(job.makes[0])


class _Blocks:
    """Forwards images through a classifier in blocks of the job's size, or fewer once memory has run out.

    The last block is padded: the last bits of logits depend on the number of images in a batch, so that a fixed size is
    part of what makes results reproducible.
    """

    def __init__(self, context: JobContext, job: ExtractJob, classifier: Classifier) -> None:
        self._context, self._job, self._classifier = context, job, classifier
        self.size = job.block
        self._busy = torch.get_num_threads() if context.device.type == "cpu" else 0

    def of(self, images: Images) -> Iterator[tuple[slice, ForwardOutput]]:
        """Forward uint8 images (N, C, H, W), in the network's channels: the rows of each block, with its output."""
        first = 0
        with closing(in_blocks(images, self._job.block, self._busy)) as decoded:
            for block in decoded:
                start = 0
                while start < len(block):
                    rows = slice(start, min(start + self.size, len(block)))
                    output = self._output(in_channels(block[rows], self._job.checkpoint.image_shape[0]))
                    if output is not None:
                        start = rows.stop
                        yield slice(first + rows.start, first + rows.stop), output
                first += len(block)

    def _output(self, block: np.ndarray) -> ForwardOutput | None:
        """The output of a block; None, after halving the block size, if memory ran out."""
        try:
            return _forward(self._classifier, block, self._context.device, bool(self._job.reductions), self.size)
        except (MemoryError, RuntimeError) as error:
            if self.size == 1 or not memory.ran_out(error):
                raise
        self.size = max(1, self.size // 2)
        memory.release()
        logger.warning(
            f"Not enough memory for {2 * self.size} images of {self._job.outputs.data}: continuing in blocks of "
            f"{self.size}. The last bits of its logits and features may differ from those of blocks of "
            f"{self._job.block}; to compute them again with more memory, delete them."
        )
        return None


@torch.inference_mode()
def _forward(
    classifier: Classifier, block: np.ndarray, device: torch.device, with_maps: bool, size: int
) -> ForwardOutput:
    images = floats(torch.from_numpy(padded(block, size)).to(device))
    if with_maps:
        output = classifier.forward_with_maps(images)
    else:
        output = classifier.outputs_of(classifier.features(images), [])
    rows = slice(0, len(block))  # without the padding
    return ForwardOutput([part[rows] for part in output.maps], output.features[rows], output.logits[rows])


def padded(block: np.ndarray, size: int) -> np.ndarray:
    """A block of images, writable, with black ones up to a size.

    The images of `LazyImages` come with the channels last in memory and keep this, so that nothing is moved for a
    network that takes them so.
    """
    if len(block) == size and block.flags.writeable and block.transpose(0, 2, 3, 1).flags.c_contiguous:
        return block
    whole = np.zeros((size, *block.shape[1:]), dtype=np.uint8)
    whole[: len(block)] = block
    return whole


def checked_reduction(detector: Detector, output: ForwardOutput) -> Tensor:
    """A detector's reduction of the maps of N images, float32 (N, M).

    Raises `PluginError` if `reduce` returns anything but N rows of finite numbers.
    """
    reduced = detector.reduce(output.maps, output.features, output.logits)
    if not isinstance(reduced, Tensor) or reduced.ndim != 2 or len(reduced) != len(output.features):
        shape = tuple(reduced.shape) if isinstance(reduced, Tensor) else type(reduced).__name__
        raise PluginError(
            f"Detector '{detector.name}' reduces the maps of {len(output.features)} images to {shape}; reduce() must "
            f"return ({len(output.features)}, M)."
        )
    reduced = reduced.float()
    if not torch.isfinite(reduced).all():
        raise PluginError(f"Detector '{detector.name}' reduces maps to NaN or infinite values; all must be finite.")
    return reduced


def _root(context: JobContext) -> Path:
    """The store's folder, created if needed; temporary files of a pass go there, to be renamed into place."""
    try:
        context.store.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"Cannot write '{context.store.root}': {error.strerror}. Choose another --results.") from error
    return context.store.root
