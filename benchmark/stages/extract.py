"""One forward pass a checkpoint and split, for all detectors: logits, features, and what is kept of blocks' maps."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark.errors import DataError, PluginError, StoreError
from oodbench.benchmark.plan.jobs import ExtractJob, LookJob
from oodbench.benchmark.plugins.detector import Detector
from oodbench.benchmark.plugins.inputs import Classifier, Looked
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.benchmark.stages import memory
from oodbench.benchmark.stages.context import Tick
from oodbench.benchmark.stages.detector_state import load_state, save_state
from oodbench.benchmark.stages.train_loop import floats
from oodbench.benchmark.store.locks import PASS
from oodbench.benchmark.store.store import Key

if TYPE_CHECKING:
    from oodbench.benchmark.stages.context import Bench


BLOCK = 256
"""Images a pass. The last block is padded to it: logits move in the last bits with the number of images in a batch, so
that the block size is a constant and not a matter of sharding. Where memory does not hold a block, the pass goes on in
smaller ones and says so."""


class Rows:
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

    def keep(self, bench: Bench, key: Key, about: dict[str, object]) -> None:
        """Make the file the key's artifact."""
        if self.written != self.length:
            raise AssertionError(f"{self.written} of {self.length} rows are written")
        bench.store.save(key, lambda path: _replace(self.path, path), about)


class _Watch:
    """One detector at the pass. What it raises is its own: the pass goes on for the others."""

    def __init__(self, bench: Bench, job: LookJob, folder: Path) -> None:
        self.bench, self.job = bench, job
        self.rows = Rows(folder / f"{job.id}.npy", job.data.images)
        self.failed: Exception | None = None
        self.detector: Detector = create("detector", parse_spec(job.detector))
        if job.observed is not None:
            if (path := bench.store.find(job.observed)) is None:
                self.failed = PluginError(f"What '{job.detector}' learns from the training split's maps is not there.")
            else:
                load_state(self.detector, path)

    def see(self, looked: Looked, labels: Tensor | None) -> None:
        """Show it a piece."""
        if self.failed is not None:
            return
        try:
            if not self.job.learns:
                self.rows.add(checked_reduction(self.detector, looked).cpu().numpy())
            elif labels is not None:
                self.detector.observe(looked.maps, looked.features, looked.logits, labels)
        except StoreError:
            raise
        except Exception as error:  # a stranger's detector may raise anything
            self.failed = error

    def keep(self, about: dict[str, object]) -> None:
        """Store what it kept or learned, or remember why there is nothing."""
        if self.failed is None and not self.job.learns:
            self.rows.keep(self.bench, self.job.makes[0], about)
        elif self.failed is None:
            try:
                self.bench.store.save(self.job.makes[0], lambda path: save_state(self.detector, path), about)
            except PluginError as error:  # it learned what cannot be stored
                self.failed = error
        if self.failed is not None:
            self.bench.missed[self.job.id] = self.failed


def extract(bench: Bench, job: ExtractJob, tick: Tick) -> None:
    """Store the logits and features, float32, of one set under one classifier, and make its looks; all in one pass."""
    images = bench.images(job.outputs.data).images[slice(*job.rows or (None,))]
    classifier = bench.classifier(job.checkpoint)
    if images.shape[1:] != job.checkpoint.image_shape:
        raise DataError(
            f"{job.outputs.data} holds {images.shape[1:]} images, but the classifier was trained on "
            f"{job.checkpoint.image_shape}; they must be alike in channels and size."
        )
    learning = any(look.learns for look in job.looks)
    labels = torch.from_numpy(bench.labels(job.outputs.data).astype(np.int64)) if learning else None
    with tempfile.TemporaryDirectory(dir=_root(bench), prefix=PASS) as name:
        folder = Path(name)
        logits, features = (Rows(folder / f"{what}.npy", len(images)) for what in ("logits", "features"))
        watches = [_Watch(bench, look, folder) for look in job.looks]
        bad = 0
        blocks = _Blocks(bench, job, classifier)
        for rows, looked in blocks.of(images):
            if not job.stored:
                z = looked.logits.float().cpu().numpy()
                bad += int(np.size(z) - np.isfinite(z).sum())
                logits.add(z)
                features.add(looked.features.float().cpu().numpy())
            known = None if labels is None else labels[rows].to(bench.device)
            with torch.inference_mode():
                for watch in watches:
                    watch.see(looked, known)
            tick(len(looked.logits))
        about = bench.about(job, **({"block": blocks.size} if blocks.size < BLOCK else {}))
        if not job.stored:
            _refuse_bad(job, looked.logits.shape[1], len(images), bad)
            features.keep(bench, job.outputs.features, about)
            logits.keep(bench, job.outputs.logits, about)
        for watch in watches:
            watch.keep(about)


def look(bench: Bench, job: LookJob, tick: Tick) -> None:
    """Nothing is left to do: the set's pass has made it, or has said why not."""
    if (error := bench.missed.pop(job.id, None)) is not None:
        raise error
    bench.store.require(job.makes[0])


class _Blocks:
    """Pushes images through a classifier, `size` of them at a time: `BLOCK`, or less once memory has run out."""

    def __init__(self, bench: Bench, job: ExtractJob, classifier: Classifier) -> None:
        self._bench, self._job, self._classifier = bench, job, classifier
        self.size = BLOCK

    def of(self, images: np.ndarray) -> Iterator[tuple[slice, Looked]]:
        """Every block of uint8 images (N, C, H, W): its rows, and what the classifier says of them."""
        start = 0
        while start < len(images):
            rows = slice(start, min(start + self.size, len(images)))
            looked = self._looked(images[rows])
            if looked is not None:
                start = rows.stop
                yield rows, looked

    def _looked(self, block: np.ndarray) -> Looked | None:
        """None if memory ran out, and a smaller block is to be tried."""
        try:
            return _forward(self._classifier, block, self._bench.device, bool(self._job.looks), self.size)
        except (MemoryError, RuntimeError) as error:
            if self.size == 1 or not memory.ran_out(error):
                raise
        self.size = max(1, self.size // 2)
        memory.release()
        self._bench.store.say(
            f"Memory does not hold {2 * self.size} images of {self._job.outputs.data}: blocks of {self.size} from here "
            "on. The last bits of its logits and features may differ from those of blocks of "
            f"{BLOCK}; delete them to have them made anew with more memory."
        )
        return None


@torch.inference_mode()
def _forward(classifier: Classifier, block: np.ndarray, device: torch.device, with_maps: bool, size: int) -> Looked:
    padded = np.zeros((size, *block.shape[1:]), dtype=np.uint8)
    padded[: len(block)] = block
    images = floats(torch.from_numpy(padded).to(device))
    if with_maps:
        looked = classifier.look(images)
    else:
        features = classifier.features(images)
        looked = Looked([], features, classifier.head(features))
    kept = slice(0, len(block))
    return Looked([one[kept] for one in looked.maps], looked.features[kept], looked.logits[kept])


def checked_reduction(detector: Detector, looked: Looked) -> Tensor:
    """What a detector keeps of some images, float32 (N, M); anything else it returns is an error that says what."""
    kept = detector.reduce(looked.maps, looked.features, looked.logits)
    if not isinstance(kept, Tensor) or kept.ndim != 2 or len(kept) != len(looked.logits):
        shape = tuple(kept.shape) if isinstance(kept, Tensor) else type(kept).__name__
        raise PluginError(
            f"Detector '{detector.name}' reduces the maps of {len(looked.logits)} images to {shape}; reduce() must "
            f"return ({len(looked.logits)}, M)."
        )
    kept = kept.float()
    if not torch.isfinite(kept).all():
        raise PluginError(f"Detector '{detector.name}' reduces maps to NaN or infinite values; all must be finite.")
    return kept


def _root(bench: Bench) -> Path:
    try:
        bench.store.root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"Cannot write '{bench.store.root}': {error.strerror}. Choose another --results.") from error
    return bench.store.root


def _replace(source: Path, target: Path) -> None:
    source.replace(target)


def _refuse_bad(job: ExtractJob, columns: int, images: int, bad: int) -> None:
    if bad or columns != job.checkpoint.num_classes:
        raise PluginError(
            f"The classifier's logits on {job.outputs.data} have shape {(images, columns)} with {bad} non-finite "
            f"values; expected finite ({images}, {job.checkpoint.num_classes})."
        )
