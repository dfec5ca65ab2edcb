"""What a bundle has in place of images: which of them belong together, and how the classifier did on each.

That is what intervals, the ID accuracy and the extended metrics need besides scores.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.comparisons.scored_images import ScoredImages
from oodbench.benchmark.data.outputs.given import GivenArrays
from oodbench.benchmark.data.outputs.images import GivenImages
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.metrics.extended import (
    Classified,
    ClassifiedImages,
    calibration_gap,
    label_losses,
    softmax,
)
from oodbench.benchmark.plugins.dataset import ImageSet
from oodbench.benchmark.records.beside import RecordOfRun
from oodbench.benchmark.records.record import Record
from oodbench.benchmark.verify.bundles.contents import Classification, SetOfImages
from oodbench.benchmark.verify.recompute import Recompute, logits_behind

NO_IMAGES = "which the bundle does not list among its images"


@dataclass(frozen=True, eq=False)
class SummarisedImages(Classified):
    """What is kept of classified images: whether each is right, and, for calibration, two numbers of each."""

    is_right: NDArray[np.bool_]
    confidence: NDArray[np.float64] | None = None
    """(N,): the largest probability."""
    losses: NDArray[np.float64] | None = None
    """(N,): -log p(label), in nats."""

    @property
    def right(self) -> NDArray[np.bool_]:
        """As in `Classified`."""
        return self.is_right

    @cached_property
    def calibration(self) -> dict[str, float]:
        """As in `Classified`."""
        if self.confidence is None or self.losses is None:
            return {}
        return {"ece": calibration_gap(self.confidence, self.is_right), "nll": float(np.mean(self.losses))}

    def to_array(self) -> NDArray[Any]:
        """As bundles store it: uint8 (N,), or float64 (3, N) with calibration."""
        if self.confidence is None or self.losses is None:
            return self.is_right.astype(np.uint8)
        return np.stack([self.is_right.astype(np.float64), self.confidence, self.losses])

    @classmethod
    def of_array(cls, array: NDArray[Any]) -> SummarisedImages:
        """The inverse of `to_array`. Raises `ValueError` for another array."""
        if array.ndim == 2 and array.shape[0] == 3 and array.dtype == np.float64 and np.isfinite(array).all():
            right, confidence, losses = array
        elif array.ndim == 1 and array.dtype == np.uint8:
            right, confidence, losses = array, None, None
        else:
            raise ValueError(
                f"it is {array.dtype} of shape {array.shape}, expected uint8 (N,) or finite float64 (3, N)"
            )
        if not np.isin(right, (0, 1)).all():
            raise ValueError("it has a number that is neither 0 nor 1 in the place of whether an image is right")
        return cls(right == 1, confidence, losses)

    @classmethod
    def of_images(cls, images: ClassifiedImages, calibrated: bool) -> SummarisedImages:
        """What is kept of images with logits and labels."""
        if not calibrated:
            return cls(images.right)
        return cls(images.right, softmax(images.logits).max(axis=1), label_losses(images.logits, images.labels))


def npy_bytes(array: NDArray[Any]) -> bytes:
    """An array in the bytes of a .npy file."""
    out = io.BytesIO()
    np.save(out, np.ascontiguousarray(array), allow_pickle=False)
    return out.getvalue()


class BundleImages(ScoredImages):
    """Finds the images on which cells were scored in a bundle: their number and groups, and no pixels.

    Args:
        known: What the bundle says of its images.
        groups: Member -> the groups in it.

    Raises:
        UserError: On construction, if groups are not those that their checksum is of.
    """

    def __init__(self, known: tuple[SetOfImages, ...], groups: Mapping[str, NDArray[Any]]) -> None:
        self._images: dict[tuple[str, str, int, str], ImageSet] = {}
        for one in known:
            if one.images < 1:
                raise UserError(f"A set of images has {one.images} images; expected 1 or more.")
            lazy = GivenImages("images", "test", GivenArrays(one.images))
            of_images = groups[one.file] if one.file else None
            if of_images is not None and (of_images.shape != (one.images,) or of_images.dtype.kind not in "iu"):
                raise UserError(f"The groups of a set of {one.images} images are {of_images.dtype} {of_images.shape}.")
            images = ImageSet.read_lazily(lazy, groups=of_images).with_checksum(one.checksum)
            if images.groups_checksum != one.groups:
                raise UserError("The groups of a set of images are not those that its checksum is of.")
            self._images[one.checksum, one.part, one.images, one.groups] = images

    def known(self, used: Mapping[str, Any]) -> ImageSet | str:
        """As in `ScoredImages`, by checksum, part, number and groups."""
        names = ("sha256", "part", "images", "groups")
        checksum, part, count, groups = (used.get(name, "") for name in names)
        return self._images.get((checksum, part, count, groups), NO_IMAGES)


class ImagesOfBundles(ScoredImages):
    """Finds the images of records of several bundles.

    Args:
        of_run: The name of a run, as in `RecordOfRun` -> the images of its bundle.
    """

    def __init__(self, of_run: Mapping[str, BundleImages]) -> None:
        self._of_run = of_run

    def of(self, record: Record, name: str, count: int) -> ImageSet | str:
        """As in `ScoredImages`."""
        own = self._of_run.get(record.run) if isinstance(record, RecordOfRun) else None
        return NO_IMAGES if own is None else own.of(record, name, count)


class BundleRecompute(Recompute):
    """Recomputes numbers from what a bundle has in place of logits and labels."""

    known: Mapping[str, tuple[Classification, SummarisedImages]] = {}
    """Digest of the key of logits -> how these classify."""

    def classified(self, logits: str, used: Mapping[str, Any]) -> Classified | str:
        """As in `Recompute`."""
        found = self.known.get(logits)
        if found is None:
            return "because the bundle does not have how the classifier did on each image"
        if used.get("sha256") not in (None, found[0].checksum) or used.get("images", len(found[1].right)) != len(
            found[1].right
        ):
            return "because how the classifier did is of other images"
        return found[1]

    def _shifted(self, record: Record, key: Mapping[str, Any]) -> Classified | str:
        return self.classified(logits_behind(key), {})


def read_npy(content: bytes) -> NDArray[Any]:
    """An array of numbers from the bytes of a .npy file. Raises `ValueError` for anything else."""
    try:
        found = np.load(io.BytesIO(content), allow_pickle=False)
    except Exception as error:  # NumPy's header parser lets errors of the tokenizer and others through
        raise ValueError(f"it is not an array that can be read safely ({type(error).__name__})") from error
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "biuf":
        raise ValueError("it is not an array of numbers")
    return found
