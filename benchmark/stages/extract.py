"""One forward pass a checkpoint and split, for all detectors: logits, features, and what is kept of blocks' maps."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark.errors import DataError, PluginError, StoreError
from oodbench.benchmark.plan.jobs import ExtractJob, ReduceMapsJob
from oodbench.benchmark.plugins.detector import Detector
from oodbench.benchmark.plugins.inputs import Classifier, ForwardOutput
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.benchmark.stages import memory
from oodbench.benchmark.stages.context import Tick
from oodbench.benchmark.stages.detector_state import load_state, save_state
from oodbench.benchmark.stages.train_loop import floats
from oodbench.benchmark.store.locks import PASS
from oodbench.benchmark.store.store import Key

if TYPE_CHECKING:
    from oodbench.benchmark.stages.context import JobContext

logger = logging.getLogger(__name__)


BLOCK = 256
"""Images a pass. The last block is padded to it: logits move in the last bits with the number of images in a batch, so
that the block size is a constant and not a matter of sharding. Where memory does not hold a block, the pass goes on in
smaller ones and says so."""


class GrowingArray:
    """A float32 array of known length in a temporary .npy file, written from the front, piece by piece."""

    def __init__(self, path: Path, length: int) -> None:
        self.path, self.length, self.written = path, length, 0

    def add(self, rows: np.ndarray) -> None:
        """Append rows; the first piece says how wide they are. No memory map: a full disk would kill the process."""
        try:
            with self.path.open("ab") as file:
                if not self.written:
                    shape = (self.length, *rows.shape[1:])
                    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(rows.astype("<f4").tobytes())
        except OSError as error:
            raise StoreError(
                f"Cannot write '{self.path}': {error.strerror or error}. Choose another --results."
            ) from error
        self.written += len(rows)

    def keep(self, context: JobContext, key: Key, about: dict[str, object]) -> None:
        """Make the file the key's artifact."""
        if self.written != self.length:
            raise AssertionError(f"{self.written} of {self.length} rows are written")
        context.store.save(key, lambda path: _replace(self.path, path), about)


class _MapReducer:
    """One detector at the pass. What it raises is its own: the pass goes on for the others."""

    def __init__(self, context: JobContext, job: ReduceMapsJob, folder: Path) -> None:
        self.context, self.job = context, job
        self.rows = GrowingArray(folder / f"{job.id}.npy", job.data.images)
        self.failed: Exception | None = None
        self.detector: Detector = create("detector", parse_spec(job.detector))
        if job.observed is not None:
            if (path := context.store.find(job.observed)) is None:
                self.failed = PluginError(f"What '{job.detector}' learns from the training split's maps is not there.")
            else:
                load_state(self.detector, path)

    def see(self, output: ForwardOutput, labels: Tensor | None) -> None:
        """Show it a piece."""
        if self.failed is not None:
            return
        try:
            if not self.job.learns:
                self.rows.add(checked_reduction(self.detector, output).cpu().numpy())
            elif labels is not None:
                self.detector.observe(output.maps, output.features, output.logits, labels)
        except StoreError:
            raise
        except Exception as error:  # a stranger's detector may raise anything
            self.failed = error

    def keep(self, about: dict[str, object]) -> None:
        """Store what it kept or learned, or remember why there is nothing."""
        if self.failed is None and not self.job.learns:
            self.rows.keep(self.context, self.job.makes[0], about)
        elif self.failed is None:
            try:
                self.context.store.save(self.job.makes[0], lambda path: save_state(self.detector, path), about)
            except PluginError as error:  # it learned what cannot be stored
                self.failed = error
        if self.failed is not None:
            self.context.missed[self.job.id] = self.failed


def extract(context: JobContext, job: ExtractJob, tick: Tick) -> None:
    """Store the logits and features, float32, of one set under one classifier, and make its looks; all in one pass."""
    images = context.images(job.outputs.data).images[slice(*job.rows or (None,))]
    classifier = context.classifier(job.checkpoint)
    if images.shape[1:] != job.checkpoint.image_shape:
        raise DataError(
            f"{job.outputs.data} holds {images.shape[1:]} images, but the classifier was trained on "
            f"{job.checkpoint.image_shape}; they must be alike in channels and size."
        )
    learning = any(reduction.learns for reduction in job.reductions)
    labels = torch.from_numpy(context.labels(job.outputs.data).astype(np.int64)) if learning else None
    with tempfile.TemporaryDirectory(dir=_root(context), prefix=PASS) as name:
        folder = Path(name)
        logits, features = (GrowingArray(folder / f"{what}.npy", len(images)) for what in ("logits", "features"))
        watches = [_MapReducer(context, reduction, folder) for reduction in job.reductions]
        bad = 0
        blocks = _Blocks(context, job, classifier)
        for rows, output in blocks.of(images):
            if not job.stored:
                z = output.logits.float().cpu().numpy()
                bad += int(np.size(z) - np.isfinite(z).sum())
                logits.add(z)
                features.add(output.features.float().cpu().numpy())
            known = None if labels is None else labels[rows].to(context.device)
            with torch.inference_mode():
                for watch in watches:
                    watch.see(output, known)
            tick(len(output.logits))
        about = context.about(job, **({"block": blocks.size} if blocks.size < BLOCK else {}))
        if not job.stored:
            _refuse_bad(job, output.logits.shape[1], len(images), bad)
            features.keep(context, job.outputs.features, about)
            logits.keep(context, job.outputs.logits, about)
        for watch in watches:
            watch.keep(about)


def check_reduction_made(context: JobContext, job: ReduceMapsJob, tick: Tick) -> None:
    """Nothing is left to do: the set's pass has made it, or has said why not."""
    if (error := context.missed.pop(job.id, None)) is not None:
        raise error
    context.store.require(job.makes[0])


class _Blocks:
    """Pushes images through a classifier, `size` of them at a time: `BLOCK`, or less once memory has run out."""

    def __init__(self, context: JobContext, job: ExtractJob, classifier: Classifier) -> None:
        self._context, self._job, self._classifier = context, job, classifier
        self.size = BLOCK

    def of(self, images: np.ndarray) -> Iterator[tuple[slice, ForwardOutput]]:
        """Every block of uint8 images (N, C, H, W): its rows, and what the classifier says of them."""
        start = 0
        while start < len(images):
            rows = slice(start, min(start + self.size, len(images)))
            output = self._output(images[rows])
            if output is not None:
                start = rows.stop
                yield rows, output

    def _output(self, block: np.ndarray) -> ForwardOutput | None:
        """None if memory ran out, and a smaller block is to be tried."""
        try:
            return _forward(self._classifier, block, self._context.device, bool(self._job.reductions), self.size)
        except (MemoryError, RuntimeError) as error:
            if self.size == 1 or not memory.ran_out(error):
                raise
        self.size = max(1, self.size // 2)
        memory.release()
        logger.warning(
            f"Memory does not hold {2 * self.size} images of {self._job.outputs.data}: blocks of {self.size} from here "
            "on. The last bits of its logits and features may differ from those of blocks of "
            f"{BLOCK}; delete them to have them made anew with more memory."
        )
        return None


@torch.inference_mode()
def _forward(
    classifier: Classifier, block: np.ndarray, device: torch.device, with_maps: bool, size: int
) -> ForwardOutput:
    padded = np.zeros((size, *block.shape[1:]), dtype=np.uint8)
    padded[: len(block)] = block
    images = floats(torch.from_numpy(padded).to(device))
    if with_maps:
        output = classifier.forward_with_maps(images)
    else:
        features = classifier.features(images)
        output = ForwardOutput([], features, classifier.head(features))
    kept = slice(0, len(block))
    return ForwardOutput([one[kept] for one in output.maps], output.features[kept], output.logits[kept])


def checked_reduction(detector: Detector, output: ForwardOutput) -> Tensor:
    """What a detector keeps of some images, float32 (N, M); anything else it returns is an error that says what."""
    kept = detector.reduce(output.maps, output.features, output.logits)
    if not isinstance(kept, Tensor) or kept.ndim != 2 or len(kept) != len(output.logits):
        shape = tuple(kept.shape) if isinstance(kept, Tensor) else type(kept).__name__
        raise PluginError(
            f"Detector '{detector.name}' reduces the maps of {len(output.logits)} images to {shape}; reduce() must "
            f"return ({len(output.logits)}, M)."
        )
    kept = kept.float()
    if not torch.isfinite(kept).all():
        raise PluginError(f"Detector '{detector.name}' reduces maps to NaN or infinite values; all must be finite.")
    return kept


def _root(context: JobContext) -> Path:
    try:
        context.store.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"Cannot write '{context.store.root}': {error.strerror}. Choose another --results.") from error
    return context.store.root


def _replace(source: Path, target: Path) -> None:
    source.replace(target)


def _refuse_bad(job: ExtractJob, columns: int, images: int, bad: int) -> None:
    if bad or columns != job.checkpoint.num_classes:
        raise PluginError(
            f"The classifier's logits on {job.outputs.data} have shape {(images, columns)} with {bad} non-finite "
            f"values; expected finite ({images}, {job.checkpoint.num_classes})."
        )
