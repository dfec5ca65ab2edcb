"""Which image got which score: the rows of `scores.csv`, from stored scores and logits, and the images' names."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from oodbench.benchmark.comparisons.scored_images import ScoredImages
from oodbench.benchmark.data.imagenet_classes import named_class
from oodbench.benchmark.errors import StoreError
from oodbench.benchmark.plugins.dataset import ImageSet
from oodbench.benchmark.records.cell_names import cell_name
from oodbench.benchmark.records.record import OK, Record
from oodbench.benchmark.store.atomic import flush, rename, temporary_beside
from oodbench.benchmark.store.npy import load_array, stored_scores
from oodbench.benchmark.store.safe_read import escapes_root
from oodbench.benchmark.store.store import read_side

COLUMNS = (
    *("id_set", "ood_set", "detector", "seed", "split", "image", "label"),
    *("predicted", "score", "is_error"),
)

STORED, BY_SCORE = "stored", "score"
"""Orders of the rows of a cell: ID images before OOD images, each as stored; or the highest score first."""

Row = tuple[Any, ...]


class ImageScores:
    """Reads the scores of a run's cells, image by image.

    Args:
        cache: The store that has the run's artifacts.
        images: Finds names, labels and classes; where the images are not there, these columns are empty.
    """

    def __init__(self, cache: Path, images: ScoredImages) -> None:
        self.cache, self.images = cache, images
        self.without: dict[str, str] = {}
        """Sets whose names and labels are left out -> why, a clause."""
        self._named: dict[int, list[str] | None] = {}

    def rows(self, record: Record, order: str = STORED) -> list[Row]:
        """The rows of a cell, in the order of `COLUMNS`. Raises `StoreError` if its scores are not in the store."""
        found = [*self._side(record, "id"), *self._side(record, "ood")]
        if order == BY_SCORE:
            found.sort(key=lambda row: -row[COLUMNS.index("score")])
        return found

    def _side(self, record: Record, side: str) -> Iterator[Row]:
        name = record.id_set if side == "id" else record.ood_set
        path = record.artifacts.get(f"{side}_scores", "")
        scores = stored_scores(self.cache, record.artifacts, f"{side}_scores")
        if scores is None:
            raise StoreError(
                f"The scores of '{cell_name(record)}' are not in '{self.cache}'. Repeat the command that made the run."
            )
        known = self._images(record, name, len(scores))
        classes = self._images(record, record.id_set, record.n_id or 0)
        predicted = self._predicted(record, path, len(scores))
        of_cell = (record.id_set, record.ood_set, record.label, record.seed, side)
        names = self._names(known, len(scores))
        for row, score in enumerate(scores.tolist()):
            number = None if known is None or known.labels is None else int(known.labels[row])
            guess = None if predicted is None else int(predicted[row])
            is_error = "" if side == "ood" or None in (number, guess) else int(number != guess)
            yield (*of_cell, names[row], _class(known, number), _class(classes, guess), score, is_error)

    def _images(self, record: Record, name: str, count: int) -> ImageSet | None:
        found = self.images.of(record, name, count)
        if isinstance(found, str):
            self.without[name] = found
            return None
        return found

    def _names(self, images: ImageSet | None, count: int) -> list[str]:
        """The names of images; 'image 7' for row 7 of those that have none."""
        if images is not None and id(images) not in self._named:
            self._named[id(images)] = images.names
        names = None if images is None else self._named[id(images)]
        return [f"image {row}" for row in range(count)] if names is None else [*map(printable, names)]

    def _predicted(self, record: Record, scores: str, count: int) -> np.ndarray | None:
        """The predicted class of every image, (N,), by the logits that scores come from; None if they are not there."""
        outputs = read_side(self.cache / scores).get("key", {}).get("outputs", {})
        digest = outputs.get("logits") if isinstance(outputs, Mapping) else None
        artifacts = record.provenance.get("artifacts", ())
        path = next((str(one.get("path", "")) for one in artifacts if digest and one.get("key") == digest), "")
        if not path or escapes_root(path):
            return None
        try:
            logits = load_array(self.cache / path)
        except (OSError, ValueError):
            return None
        if logits.ndim != 2 or len(logits) != count:
            return None
        classes: np.ndarray = logits.argmax(axis=1)
        return classes


def printable(name: str) -> str:
    """A file's name, in which bytes that are not UTF-8 are written as \\xff."""
    return name.encode(errors="surrogateescape").decode(errors="backslashreplace")


def _class(images: ImageSet | None, number: int | None) -> str:
    """The name of a class, of a WordNet identifier with its usual name; its number where names are unknown.

    Nothing where the number is unknown.
    """
    if number is None:
        return ""
    known = images is not None and number < len(images.classes)
    return named_class(images.classes[number]) if images is not None and known else str(number)


def write_scores(file: IO[str], scores: ImageScores, records: Iterable[Record], order: str = STORED) -> int:
    """Write the scores of the cells that have some as CSV, and return the number of rows."""
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(COLUMNS)
    count = 0
    for record in records:
        if record.status == OK:
            rows = scores.rows(record, order)
            writer.writerows(rows)
            count += len(rows)
    return count


def save_scores(path: Path, scores: ImageScores, records: Iterable[Record], order: str = STORED) -> int:
    """As `write_scores`, to a file, which is there only if all of it could be written."""
    try:
        with temporary_beside(path) as temporary:
            with temporary.open("w", newline="", encoding="utf-8") as file:
                count = write_scores(file, scores, records, order)
            flush(temporary)
            rename(temporary, path)
    except OSError as error:
        raise StoreError(f"Cannot write '{path}': {error.strerror or error}. Choose another file.") from error
    return count
