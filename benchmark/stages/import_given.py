"""Copies logits, features, heads and scores that the user gives into the store, block by block, with checks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from oodbench.benchmark.data.outputs.formats.spool import BLOCK, rows_per_block
from oodbench.benchmark.data.outputs.given import TEST
from oodbench.benchmark.data.outputs.head import head_of
from oodbench.benchmark.data.outputs.images import GivenImages
from oodbench.benchmark.errors import DataError
from oodbench.benchmark.plan.jobs import SetRef
from oodbench.benchmark.plan.outputs.arrays import FEATURES, LOGITS, dataset_of, order_in
from oodbench.benchmark.plan.outputs.digests import array_sha256
from oodbench.benchmark.plan.outputs.jobs import ImportArraysJob, ImportHeadJob, ImportScoresJob
from oodbench.benchmark.records.given_sets import plain_name
from oodbench.benchmark.stages.networks import CLASSES, HEAD_BIAS, HEAD_WEIGHT
from oodbench.benchmark.store.store import Key

if TYPE_CHECKING:
    from oodbench.benchmark.stages.context import JobContext, Tick


def import_head(context: JobContext, job: ImportHeadJob, tick: Tick) -> None:
    """Store a network's number of classes and its head, if it is given or can be recovered."""
    head = head_of(dataset_of(job.set).of_seeds[job.place]) if job.has_head else None
    tensors = {CLASSES: torch.tensor([job.checkpoint.num_classes])}
    if head is not None:
        for name, values in ((HEAD_WEIGHT, head.weight), (HEAD_BIAS, head.bias)):
            tensors[name] = torch.from_numpy(np.array(values, dtype=np.float32))
    context.store.save_tensors(job.makes[0], tensors, context.about(job, given={"place": job.place, "what": "head"}))
    tick(job.size)


def import_arrays(context: JobContext, job: ImportArraysJob, tick: Tick) -> None:
    """Store a set's logits, in their precision, and its features as float32.

    Raises `DataError` for values that are not finite, and for arrays that have changed since the run was planned.
    """
    images = _images(context, job.outputs.data)
    given = dataset_of(job.outputs.data.set).arrays(images.split, job.place)
    wanted = {LOGITS: job.outputs.logits, FEATURES: job.outputs.features}
    for kind in (kind for kind in wanted if kind not in job.outputs.absent):
        array = getattr(given, kind)
        dtype = np.dtype(np.float32) if kind == FEATURES else np.promote_types(array.dtype, np.float32)
        _Copy(context, job, job.outputs.data.set, images, kind).store(wanted[kind], array, dtype)
    tick(job.size)


def import_scores(context: JobContext, job: ImportScoresJob, tick: Tick) -> None:
    """Store a method's scores of a set, float64 (N,), higher = more OOD. Raises as `import_arrays`."""
    images = _matched(context, job) if job.given_set else _images(context, job.data)
    given = dataset_of(job.given_set or job.data.set)
    array = given.arrays(images.split, job.place).scores[job.method][job.seed]
    copy = _Copy(context, job, job.given_set or job.data.set, images, f"scores by '{job.method}'")
    copy.store(job.makes[0], array, np.dtype(np.float64))
    tick(job.size)


def _images(context: JobContext, data: SetRef) -> GivenImages:
    lazy = context.images(data).lazy
    assert isinstance(lazy, GivenImages)
    return lazy


def _matched(context: JobContext, job: ImportScoresJob) -> GivenImages:
    """The rows of given scores that are of the images of a suite's set. Raises `DataError` if some have none."""
    dataset = dataset_of(job.given_set)
    arrays = dataset.arrays(TEST, job.place)
    order = order_in(context.images(job.data), arrays)
    if isinstance(order, str):
        raise DataError(f"The scores by '{job.method}' are not of the images of {job.data}: {order}.")
    return GivenImages(dataset.own_name, TEST, arrays, order)


class _Copy(NamedTuple):
    """Copies an array of some images into the store."""

    context: JobContext
    job: ImportArraysJob | ImportScoresJob
    set: str
    """The registered set that the array is of."""
    images: GivenImages
    what: str
    """What the array holds."""

    @property
    def where(self) -> str:
        """The array in words."""
        return f"The {self.what} of '{plain_name(self.set)}' ({self.images.split})"

    def store(self, key: Key, array: NDArray[Any], dtype: np.dtype[Any]) -> None:
        """Write the rows of the images as a .npy file of a type."""
        if array_sha256(array, self.context.library.files.cache) != key.content["array"]:
            raise DataError(
                f"{self.where} differ on this machine, or have changed since the run was planned. Run the same command "
                "again, and give every machine the same files."
            )
        count = len(array) if self.images.rows is None else len(self.images.rows)
        header = {"descr": dtype.newbyteorder("<").str, "fortran_order": False, "shape": (count, *array.shape[1:])}
        given: dict[str, Any] = {
            "set": self.set,
            "split": self.images.split,
            "place": self.job.place,
            "what": self.what,
        }
        more: dict[str, Any] = {}
        if isinstance(self.job, ImportScoresJob):
            given["seed"] = self.job.seed
            more["seconds"] = 0.0  # those of scoring are not known

        def write(path: Path) -> None:
            # Not memory-mapped: with a memory map, a full disk would kill the process.
            with path.open("wb") as file:
                np.lib.format.write_array_header_1_0(file, header)
                for block in self._blocks(array, dtype):
                    file.write(block.tobytes())

        self.context.store.save(key, write, self.context.about(self.job, given=given, **more))

    def _blocks(self, array: NDArray[Any], dtype: np.dtype[Any]) -> Iterator[NDArray[Any]]:
        """The rows of the images in blocks, in a type. Raises `DataError` for values that are not finite in it."""
        rows, step = self.images.rows, rows_per_block(array, BLOCK)
        for start in range(0, len(array) if rows is None else len(rows), step):
            chosen = slice(start, start + step) if rows is None else rows[start : start + step]
            block = np.asarray(array[chosen])
            with np.errstate(over="ignore"):
                stored = np.ascontiguousarray(block, dtype=dtype.newbyteorder("<"))
            finite = np.isfinite(stored).reshape(len(stored), -1).all(axis=1)
            if not finite.all():
                place = int(np.argmin(finite))
                row = start + place if rows is None else int(rows[start + place])
                raise self._not_finite(row, block[place], dtype)
            yield stored

    def _not_finite(self, row: int, values: NDArray[Any], dtype: np.dtype[Any]) -> DataError:
        names = self.images.arrays.names
        image = f"row {row}" + (f" ('{names[row]}')" if names else "")
        if np.isfinite(values).all():
            largest = float(np.abs(values).max())
            why = f"reach {largest:.3g} in {image}, more than {dtype.name} can hold"
        else:
            why = f"have values that are not finite, first in {image}"
        return DataError(f"{self.where} {why}; expected finite numbers.")
