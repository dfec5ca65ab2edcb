"""The arrays that a forward pass writes block by block: logits, features, named outputs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from oodbench.benchmark.errors import DataError, PluginError, StoreError
from oodbench.benchmark.plan.jobs import ExtractJob
from oodbench.benchmark.plan.precision import FLOAT32, STORED
from oodbench.benchmark.plugins.inputs import Classifier, ForwardOutput
from oodbench.benchmark.plugins.networks.with_outputs import joined_outputs
from oodbench.benchmark.store.store import Key

if TYPE_CHECKING:
    from oodbench.benchmark.stages.context import JobContext


class GrowingArray:
    """An array of known length in a temporary .npy file, written in pieces from the first row on.

    It is float32, or what the key of features says (`precision.STORED_AS`).
    """

    def __init__(self, path: Path, length: int, key: Key | None = None) -> None:
        self.path, self.length, self.written = path, length, 0
        self.dtype = np.dtype(key.content.get(STORED, FLOAT32) if key else FLOAT32).newbyteorder("<")

    def add(self, rows: np.ndarray) -> None:
        """Append rows, whose width the first call sets. Raises `StoreError` if they cannot be written.

        Raises `DataError` for numbers that are too large for the type. Not memory-mapped: with a memory map, a full
        disk would kill the process.
        """
        stored = self._converted(rows)
        try:
            with self.path.open("ab") as file:
                if not self.written:
                    shape = (self.length, *rows.shape[1:])
                    header = {"descr": self.dtype.str, "fortran_order": False, "shape": shape}
                    np.lib.format.write_array_header_1_0(file, header)
                file.write(stored.tobytes())
        except OSError as error:
            raise StoreError(
                f"Cannot write '{self.path}': {error.strerror or error}. Choose another --results."
            ) from error
        self.written += len(rows)

    def _converted(self, rows: np.ndarray) -> np.ndarray:
        with np.errstate(over="ignore"):
            stored = rows.astype(self.dtype)
        if self.dtype != np.float32 and (lost := np.isinf(stored) & np.isfinite(rows)).any():
            largest = float(np.abs(rows[lost]).max())
            raise DataError(
                f"Features reach {largest:,.0f}, and {self.dtype.name} holds numbers up to "
                f"{float(np.finfo(self.dtype).max):,.0f}. Store them as {FLOAT32}."
            )
        return stored

    def save(self, context: JobContext, key: Key, about: dict[str, object]) -> None:
        """Move the complete file into the store, as the artifact of `key`."""
        if self.written != self.length:
            raise AssertionError(f"only {self.written} of {self.length} rows were written")
        context.store.save(key, lambda path: _replace(self.path, path), about)


class PassArrays:
    """Writes what a pass makes of N images: logits (N, K), features (N, D), named outputs side by side (N, W)."""

    def __init__(self, job: ExtractJob, folder: Path, length: int, classifier: Classifier) -> None:
        self._job, self._length, self._bad, self._columns = job, length, 0, 0
        self._classifier = classifier
        keys = enumerate(job.outputs.arrays)  # of a part of a pass, all have one kind
        self._arrays = {key: GrowingArray(folder / f"array-{number}.npy", length, key) for number, key in keys}

    def add(self, output: ForwardOutput, size: int) -> None:
        """Append the output of a block of at most `size` images.

        Raises `PluginError` for named outputs that are not as declared.
        """
        outputs = self._job.outputs
        if outputs.logits in self._arrays:
            logits = output.logits.float().cpu().numpy()
            self._bad += int(np.size(logits) - np.isfinite(logits).sum())
            self._columns = logits.shape[1]
            self._arrays[outputs.logits].add(logits)
        self._arrays[outputs.features].add(output.features.float().cpu().numpy())
        if outputs.named is not None:
            self._arrays[outputs.named].add(self._named(output.features, size))

    @torch.inference_mode()
    def _named(self, features: Tensor, size: int) -> np.ndarray:
        """Named outputs (n, W) of features (n, D), padded to `size` rows like the block of images that they are of."""
        block = features.new_zeros(size, features.shape[1])
        block[: len(features)] = features
        declared = dict(self._job.checkpoint.named)
        joined: np.ndarray = (
            joined_outputs(self._classifier.outputs(block), declared, size, len(features)).cpu().numpy()
        )
        return joined

    def save(self, context: JobContext, about: dict[str, object]) -> None:
        """Store all of them; logits last. Raises `PluginError` for bad logits."""
        if self._job.outputs.logits in self._arrays:
            refuse_bad_logits(self._job, self._columns, self._length, self._bad)
        for key in reversed(self._arrays):
            self._arrays[key].save(context, key, about)


def refuse_bad_logits(job: ExtractJob, columns: int, images: int, bad: int) -> None:
    """Raise `PluginError` if logits have another number of columns than classes, or values that are not finite."""
    if bad or columns != job.checkpoint.num_classes:
        raise PluginError(
            f"The classifier's logits on {job.outputs.data} have shape {(images, columns)} with {bad} non-finite "
            f"values; expected finite ({images}, {job.checkpoint.num_classes})."
        )


def _replace(source: Path, target: Path) -> None:
    source.replace(target)
