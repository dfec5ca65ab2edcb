"""`Monitor`: a fitted detector with its network and a threshold, which scores images."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from oodbench.benchmark.data.channels import LUMA
from oodbench.benchmark.data.pictures.source import BadImageError
from oodbench.benchmark.errors import DataError, counted
from oodbench.benchmark.standalone.bundle.contents import Bundle
from oodbench.benchmark.standalone.bundle.images import Reader
from oodbench.benchmark.standalone.bundle.scoring import Pixels, ScoredImages, Scorer, joined, probe_images
from oodbench.benchmark.standalone.bundle.sources import images_in
from oodbench.benchmark.store.user_path import user_path

logger = logging.getLogger(__name__)


NO_CLASS = -1
"""In place of the predicted class where a network is not trained to tell classes apart."""

MOST_HELD = 4096
"""Files that are held before they are scored, usable or not."""


class Verdicts(NamedTuple):
    """What a monitor says about N images."""

    scores: NDArray[np.float64]
    """(N,); higher = more OOD."""
    accepted: NDArray[np.bool_]
    """(N,): whether the score is at most the threshold."""
    classes: NDArray[np.int64]
    """(N,): the network's predicted class, a position in `Monitor.class_names`; -1 for a network without logits."""


class FileVerdict(NamedTuple):
    """What a monitor says about one file."""

    name: str
    """Its path; of a member of an archive, ARCHIVE/MEMBER."""
    score: float | None
    """None for a file that is no usable image."""
    accepted: bool
    predicted: str
    """The name of the predicted class; empty for a network without logits."""
    problem: str = ""
    """Why the file has no score, as a phrase that follows its name; empty if it has one."""


class _Read(NamedTuple):
    """What was read of a file."""

    name: str
    pixels: Pixels | None
    """(1, C, H, W); None if it is no usable image."""
    problem: str = ""


class Monitor:
    """A detector in service: call it with images for their scores, decisions and classes.

    An image has the same score, bit for bit, alone and among others, as the network and the detector compute in pieces
    of a fixed size. On the machine type, threads and libraries of the run, these are the run's scores, up to the last
    bit of a few images for detectors whose arithmetic depends on the number of images in a call.

    Attributes:
        bundle: What the monitor was made from.
        threshold: Images with at most this score are accepted.
        tpr: The share of ID validation images that are.
        class_names: What each output of the network stands for.
    """

    def __init__(self, bundle: Bundle, scorer: Scorer, tpr: float | None = None) -> None:
        self.bundle, self.scorer = bundle, scorer
        self.tpr = bundle.threshold.tpr if tpr is None else tpr
        self.threshold = bundle.threshold_at(self.tpr)
        self.class_names = bundle.class_names
        self._said = False

    @property
    def name(self) -> str:
        """The detector with its settings."""
        return self.bundle.detector.spec

    def __call__(self, images: Any) -> Verdicts:
        """Score images.

        Args:
            images: A NumPy array or a tensor of one image or of N, uint8 or in [0, 1], of the network's size, with the
                channels first or last; a Pillow image or a path; or a list of these. Pillow images and files are
                resized and cropped as the run's pictures were. Grey and colour are converted to the network's channels.

        Returns:
            Scores, decisions and predicted classes, one each per image, in order.

        Raises:
            DataError: An image cannot be used, with the reason.
        """
        reader = Reader(self.bundle.input)
        pieces = list(self.scorer.pieces(reader.pieces(images, self.scorer.piece)))
        if not pieces:
            raise DataError("There are no images to score: the list is empty.")
        self._say_converted(reader)
        return self._verdicts(joined(pieces))

    def score_files(self, paths: str | Path | Iterable[str | Path]) -> Iterator[FileVerdict]:
        """Score files one after the other, in pieces, so that memory does not grow with their number.

        Args:
            paths: Files of images, folders with images in them or in folders below, and zip or tar archives.

        Yields:
            One verdict per image, in order. A file that is no usable image has no score, and a `problem`.
        """
        reader = Reader(self.bundle.input)
        held: list[_Read] = []
        for image in images_in([paths] if isinstance(paths, str | Path) else paths):
            try:
                held.append(_Read(image.name, reader.of_bytes(image.read())))
            except BadImageError as error:
                held.append(_Read(image.name, None, str(error)))
            if sum(one.pixels is not None for one in held) == self.scorer.piece or len(held) == MOST_HELD:
                yield from self._file_verdicts(held)
                held = []
        yield from self._file_verdicts(held)
        self._say_converted(reader)

    def as_in_run(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Score a whole set in the calls that a run makes for it: the run's scores, bit for bit.

        Args:
            images: uint8, (N, C, H, W), in the order of the run's set.

        Returns:
            Scores, float64 (N,).
        """
        return self.scorer.as_in_run(Reader(self.bundle.input).of_array(images)).scores

    def with_tpr(self, tpr: float) -> Monitor:
        """The same monitor with the threshold that accepts another share of ID validation images."""
        return Monitor(self.bundle, self.scorer, tpr)

    def save(self, path: str | Path, overwrite: bool = False) -> None:
        """Write the monitor's bundle to a file. Raises `UserError` if it exists, unless `overwrite` is set."""
        self.bundle.write(user_path(path), overwrite)

    def to_onnx(self, path: str | Path, images: str = "float32", overwrite: bool = False) -> float | None:
        """Write network, score and threshold as one ONNX graph.

        It takes `images` of the network's size, (N, C, H, W), and gives `score` float64 (N,), `accepted` bool (N,),
        `predicted` int64 (N,) and `logits` float32 (N, K). Needs the extra `onnx`.

        Args:
            path: The file.
            images: "float32" for images in [0, 1], or "uint8".
            overwrite: Replace an existing file.

        Returns:
            The largest difference of scores in onnxruntime from the monitor's, relative to the spread of the validation
            scores; None if onnxruntime is not installed.

        Raises:
            UserError: The detector's score is not made of tensor operations, a package is missing, or the file exists.
        """
        from oodbench.benchmark.standalone.bundle.graph import write_onnx

        return write_onnx(self, user_path(path), images, overwrite)

    def check(self) -> float:
        """How far scores of noise are from those where the bundle was written, relative to the validation scores.

        Returns:
            The largest difference, divided by the distance between the 5% and 95% quantiles of the validation scores:
            0 on the machine type of the run, about 1e-6 elsewhere.
        """
        here = self.scorer(probe_images(self.bundle.input.shape)).scores
        return float(np.abs(here - np.array(self.bundle.probe)).max()) / self.spread

    @property
    def spread(self) -> float:
        """Distance between the 5% and 95% quantiles of the validation scores; positive."""
        low, high = np.quantile(self.bundle.validation_scores, [0.05, 0.95])
        return max(float(high - low), 1e-12)

    def _verdicts(self, scored: ScoredImages) -> Verdicts:
        count, columns = scored.logits.shape
        classes = scored.logits.argmax(axis=1) if columns else np.full(count, NO_CLASS)
        return Verdicts(scored.scores, scored.scores <= self.threshold, classes.astype(np.int64))

    def _file_verdicts(self, held: Sequence[_Read]) -> Iterator[FileVerdict]:
        """Score what was read of some files."""
        pixels = [one.pixels for one in held if one.pixels is not None]
        if pixels:
            found = self._verdicts(self.scorer(np.concatenate(pixels)))
            verdicts = zip(found.scores.tolist(), found.accepted.tolist(), found.classes.tolist(), strict=True)
        for one in held:
            if one.pixels is None:
                yield FileVerdict(one.name, None, False, "", one.problem)
            else:
                score, accepted, predicted = next(verdicts)
                name = "" if predicted == NO_CLASS else self.class_names[predicted]
                yield FileVerdict(one.name, score, accepted, name)

    def _say_converted(self, reader: Reader) -> None:
        """Log once that colour was converted for a grey network."""
        if reader.converted and not self._said:
            self._said = True
            were = "was" if reader.converted == 1 else "were"
            logger.info(
                f"The network takes grey images: {counted(reader.converted, 'image')} {were} converted, {LUMA}."
            )

    def __repr__(self) -> str:
        threshold = self.bundle.threshold
        return (
            f"Monitor({self.name} on {self.bundle.id_set}, {self.bundle.backbone.spec}: accepted at score <= "
            f"{self.threshold:.6g}, which accepts {100 * self.tpr:g}% of {threshold.images:,} ID validation images)"
        )

    def _repr_html_(self) -> str:
        """A table for notebooks."""
        threshold, run = self.bundle.threshold, self.bundle.provenance.get("run", "")
        rows = {
            "Detector": self.name,
            "ID set": self.bundle.id_set,
            "Network": self.bundle.backbone.spec,
            "Accepted": f"score <= {self.threshold:.6g} ({100 * self.tpr:g}% of ID validation images)",
            "Share of all ID images accepted at the bundle's threshold": (
                f"{100 * threshold.accepted_low:.1f}% to {100 * threshold.accepted_high:.1f}% (95% interval, "
                f"{threshold.images:,} images)"
            ),
            "From": f"run {run}, seed {self.bundle.provenance.get('seed', '')}",
        }
        cells = "".join(f"<tr><th>{escape(name)}</th><td>{escape(text)}</td></tr>" for name, text in rows.items())
        return f"<table>{cells}</table>"
