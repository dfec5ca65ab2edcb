"""Image sets by name: loading, class subsets, forms, and the validation part carved out of training."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from oodbench.benchmark.data.duplicates import shared
from oodbench.benchmark.data.files.cache import DataCache
from oodbench.benchmark.data.files.file_dataset import Access, FileDataset
from oodbench.benchmark.data.splits import carve_validation, first_half, on_its_own, only_classes
from oodbench.benchmark.errors import DataError, OodbenchError, UserError
from oodbench.benchmark.plugins.dataset import Dataset, ImageSet
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.source_version import source_version
from oodbench.benchmark.plugins.specs import SetSpec

if TYPE_CHECKING:
    from oodbench.benchmark.data.files.staging import StagedFiles


SPLIT_VERSION = "1"

PARTS = ("train", "validation", "test", "outliers", "tuning", "scored")
"""What a set is used as. 'train' and 'validation' are the two pieces of the training split, 'outliers' is all of it;
'tuning' and 'scored' are two halves of the test split."""


class Library:
    """The data sets at hand, each split loaded once. `cache` is the folder that remembers decoded files; `staged` has
    files that are in a shared store and not in `data_dir`."""

    def __init__(
        self, data_dir: Path, cache: Path | None = None, skip_bad: bool = False, staged: StagedFiles | None = None
    ) -> None:
        self.data_dir = data_dir
        self.files = Access(data_dir, DataCache(cache), skip_bad, staged)
        self.notes: list[str] = []
        """What a reader of the numbers should know of the data that was loaded."""
        self.sources: dict[str, dict[str, str]] = {}
        """What each split was read from: file -> SHA-256."""
        self._loaded: dict[tuple[str, str], ImageSet] = {}
        self._splits: dict[tuple[SetSpec, str], ImageSet] = {}
        self._parts: dict[tuple[SetSpec, str], ImageSet] = {}

    def card(self, spec: SetSpec) -> Dataset:
        """The data set itself, with its card."""
        card: Dataset = registry.get("dataset", spec.name)()
        return card

    def missing(self, spec: SetSpec) -> str | None:
        """Why the set cannot be loaded; None if it can."""
        return self.card(spec).missing(self.data_dir)

    def part(self, spec: SetSpec, part: str, limit: int = 0) -> ImageSet:
        """The images of a set that serve as one of `PARTS`, cut down to `limit` of them unless that is 0."""
        if limit:
            whole = self.part(spec, part)
            return whole if limit >= len(whole) else self._limited(spec, whole, limit)
        if part == "test":
            return self.split(spec, "test")
        if part == "outliers":
            return self.split(spec, "train")
        if part in ("tuning", "scored"):
            return self._half(spec, part)
        if (spec, part) not in self._parts:
            train = self.split(spec, "train")
            for name, images in zip(("train", "validation"), carve_validation(train, str(spec)), strict=True):
                self._parts[spec, name] = self._remembered(spec, images, train, f"{name} of {SPLIT_VERSION}")
        return self._parts[spec, part]

    def _half(self, spec: SetSpec, part: str) -> ImageSet:
        if (spec, part) not in self._parts:
            test = self.split(spec, "test")
            first = first_half(test)
            for name, rows in (("tuning", first), ("scored", ~first)):
                how = f"{name} of {SPLIT_VERSION}"
                self._parts[spec, name] = self._remembered(spec, test.take(np.flatnonzero(rows)), test, how)
        return self._parts[spec, part]

    def kin(self, spec: SetSpec) -> str:
        """The wider family of a set: its settings are never tuned on a set of the same."""
        card = self.card(spec)
        return card.kin or card.family or spec.name

    def _limited(self, spec: SetSpec, whole: ImageSet, limit: int) -> ImageSet:
        """So many images, spread evenly over the stored order: sorted by class or not, every class keeps its share."""
        name = f"{limit} of"
        if (spec, name) not in self._parts:
            rows = np.arange(limit) * len(whole) // limit
            images = self._remembered(spec, whole.take(rows), whole, f"{name} {SPLIT_VERSION}")
            missing = len(whole.classes) - len(np.unique(images.labels)) if images.labels is not None else 0
            if missing:
                raise UserError(
                    f"{limit} training images leave {missing} of the {len(whole.classes)} classes of '{spec}' without "
                    "any. Choose a larger --limit-train."
                )
            self._parts[spec, name] = images
        return self._parts[spec, name]

    def share(self) -> None:
        """Let other machines have the files that were read, where a store is shared."""
        if self.files.staged is not None:
            self.files.staged.stage({Path(path): sha for read in self.sources.values() for path, sha in read.items()})

    def num_classes(self, spec: SetSpec) -> int:
        """Number of classes, two or more, of a set that is to be classified. Raises `UserError` for fewer."""
        classes = self.card(spec).classes
        if not classes:
            raise UserError(f"'{spec}' has no classes, so it cannot be an ID set. Choose a labelled set for --id.")
        count = len(classes) if spec.classes is None else len(spec.classes)
        if count < 2:
            raise UserError(f"'{spec}' has one class, and a classifier needs two or more. Choose another --id.")
        return count

    def same_distribution(self, one: SetSpec, other: SetSpec) -> bool:
        """Whether two sets sample one distribution: same family and forms, and classes in common."""
        families = {self.card(spec).family or spec.name for spec in (one, other)}
        if len(families) > 1 or one.forms != other.forms:
            return False
        return one.classes is None or other.classes is None or bool(set(one.classes) & set(other.classes))

    def shared_images(self, seen: SetSpec, ood: SetSpec, seen_as: str = "outliers", scored_as: str = "test") -> int:
        """How many images of an OOD set's part are, pixel by pixel, in a part of another set; all its training split
        by default."""
        known, tested = self.part(seen, seen_as), self.part(ood, scored_as)
        if not all(isinstance(self.card(spec), FileDataset) for spec in (seen, ood)):
            return shared(known.images, tested.images)
        name = f"{tested.checksum} within {known.checksum}"
        return int(self.files.cache.checksum(name, lambda: str(shared(known.images, tested.images))))

    def split(self, spec: SetSpec, split: str) -> ImageSet:
        """One stored split of a set, its classes chosen and its forms applied."""
        if (spec, split) not in self._splits:
            self._splits[spec, split] = self._cut(spec, split)
        return self._splits[spec, split]

    def _load(self, name: str, split: str) -> ImageSet:
        if (name, split) not in self._loaded:
            card: Dataset = registry.get("dataset", name)()
            if split not in card.splits:
                raise DataError(f"Data set '{name}' has no {split} split, only {', '.join(card.splits)}.")
            if isinstance(card, FileDataset):
                return self._loaded.setdefault((name, split), self._opened(card, split))
            reason = card.missing(self.data_dir)
            if reason:
                raise DataError(reason)
            images = on_its_own(_loaded(card, split, self.data_dir))
            if card.checksums.get(split, images.checksum) != images.checksum:
                self.notes.append(
                    f"{name} ({split}) is not what its card describes: SHA-256 {images.checksum[:12]} in place of "
                    f"{card.checksums[split][:12]}; its numbers compare with no others."
                )
            self._loaded[name, split] = images
        return self._loaded[name, split]

    def _opened(self, card: FileDataset, split: str) -> ImageSet:
        """A split that is files: its pixels memory-mapped, its notes and sources kept."""
        opened = card.open(split, self.files)
        self.notes += [note for note in opened.notes if note not in self.notes]
        self.sources[f"{card.name} ({split})"] = dict(opened.files)
        return opened.images

    def _cut(self, spec: SetSpec, split: str) -> ImageSet:
        whole = images = self._load(spec.name, split)
        how = ""
        if spec.classes is not None:
            images = only_classes(images, spec)
            how = f"classes {spec.classes}"
        for name in spec.forms:
            form = registry.get("form", name)
            changed = form().apply(images.images)
            # A mirrored view has negative strides, which torch does not take.
            images = ImageSet(np.ascontiguousarray(changed), images.labels, images.classes, images.groups)
            how += f" {name} {source_version(form)}"
        return self._remembered(spec, images, whole, how) if how else images

    def _remembered(self, spec: SetSpec, images: ImageSet, whole: ImageSet, how: str) -> ImageSet:
        """Images cut from a set of files, which may be large: their checksum is computed once, then remembered."""
        if not isinstance(self.card(spec), FileDataset):
            return images
        name = f"{whole.checksum} {how.strip()}"
        return images.with_checksum(self.files.cache.checksum(name, lambda: images.checksum))


def _loaded(card: Dataset, split: str, data_dir: Path) -> ImageSet:
    try:
        images: object = card.load(split, data_dir)
    except OodbenchError as error:
        if card.name in str(error):
            raise
        told = str(error).rstrip(".")
        raise DataError(f"Data set '{card.name}' has no usable {split} split: {told}.") from error
    except Exception as error:  # a stranger's loader, or a damaged file, may raise anything
        raise DataError(
            f"Data set '{card.name}' has no readable {split} split: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(images, ImageSet):
        raise DataError(f"Data set '{card.name}': load() must return an ImageSet, got {type(images).__name__}.")
    return images
