"""Loads image sets by name, with class subsets, forms, and the parts that training, tuning and scoring use."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from oodbench.benchmark.data.changes import changed_images, changes_version
from oodbench.benchmark.data.channels import count_of
from oodbench.benchmark.data.duplicates import CachedDuplicates
from oodbench.benchmark.data.files.cache import DataCache
from oodbench.benchmark.data.files.file_dataset import Access, FileDataset
from oodbench.benchmark.data.files.native.open_split import wrapped
from oodbench.benchmark.data.fit_images import (
    ALL_TRAINING,
    FitImages,
    at_most,
    counts_of,
    fit_validation_rows,
    held_out_rows,
    parse_part,
)
from oodbench.benchmark.data.forms import changed
from oodbench.benchmark.data.pictures.derived import DerivedImages
from oodbench.benchmark.data.pictures.view import DEFAULT_VIEW, PictureView
from oodbench.benchmark.data.pollution import with_others
from oodbench.benchmark.data.splits import (
    carve_validation,
    copy_views,
    first_half,
    only_classes,
    validation_rows,
)
from oodbench.benchmark.data.transformed import TRANSFORMED, TRANSFORMS_VERSION, Change, transformed
from oodbench.benchmark.errors import DataError, OodbenchError, UserError
from oodbench.benchmark.plugins.dataset import Dataset, Form, ImageSet
from oodbench.benchmark.plugins.guarded import asked
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.source_version import examine
from oodbench.benchmark.plugins.specs import SetSpec

if TYPE_CHECKING:
    from oodbench.benchmark.data.files.staging import StagedFiles


SPLIT_VERSION = "1"
"""Part of the cache key of a part's checksum. Raise it when the rules for splitting change."""

VALIDATION = "val"
"""The split that sets with published validation images have for them; other sets have them carved out of 'train'."""

PARTS = ("train", "validation", "test", "outliers", "tuning", "scored", "changed", *TRANSFORMED)
"""Roles of a set's images. 'train' and 'validation' partition the training split, unless there is a validation split,
and 'outliers' is all of it; 'tuning' and 'scored' are the two halves of the test split; 'changed' are slightly changed
test images (`data.changes`), `TRANSFORMED` strongly changed validation images (`data.transformed`).
Where detectors learn from other images than all of the training split, names of parts say so (`data.fit_images`)."""


TESTED = ("test", "scored", "changed")
"""Those that detectors are measured on."""


class Library:
    """Loads image sets, each split once.

    `cache` is the folder for decoded images and checksums. `staged` fetches files that are in a shared store and not in
    `data_dir`. With `skip_bad`, images that cannot be decoded are left out and counted in `notes`. With `hash_again`,
    every file is hashed, whatever hash of it is stored. `view` says how networks get pictures of their own sizes.
    """

    def __init__(
        self,
        data_dir: Path,
        cache: Path | None = None,
        skip_bad: bool = False,
        staged: StagedFiles | None = None,
        hash_again: bool = False,
        view: PictureView = DEFAULT_VIEW,
    ) -> None:
        self.data_dir = data_dir
        self.files = Access(data_dir, DataCache(cache, hash_again), skip_bad, staged, view)
        self.notes: list[str] = []
        """Remarks on the loaded data, printed under the tables."""
        self.sources: dict[str, dict[str, str]] = {}
        """The files of each split that was loaded: path -> SHA-256."""
        self._duplicates = CachedDuplicates(self.files.cache)
        self._loaded: dict[tuple[str, str], ImageSet] = {}
        self._splits: dict[tuple[SetSpec, str], ImageSet] = {}
        self._parts: dict[tuple[SetSpec, str], ImageSet] = {}

    def card(self, spec: SetSpec) -> Dataset:
        """The data set's plug-in, which is also its card."""
        card: Dataset = registry.get("dataset", spec.name)()
        return card

    def missing(self, spec: SetSpec) -> str | None:
        """Why the set cannot be loaded; None if it can be."""
        return self.card(spec).missing(self.data_dir)

    def part(self, spec: SetSpec, part: str, limit: int = 0) -> ImageSet:
        """The images that serve as one of `PARTS`, subsampled to `limit` images (0: no limit).

        Raises `DataError` for anything else, which a record of a run may name.
        """
        role, fit = parse_part(part)
        if role not in (*PARTS, "fitted") or (fit == ALL_TRAINING and part not in PARTS):
            raise DataError(f"'{part}' is no part of '{spec}'; expected one of {', '.join(PARTS)}.")
        if role == "changed":
            tested = fit.part("scored") if fit != ALL_TRAINING else "test"
            return self._made_of(spec, part, tested, limit, changed_images, changes_version())
        if role in TRANSFORMED:
            make, version = partial(transformed, role=role), f"{role} {TRANSFORMS_VERSION}"
            return self._made_of(spec, part, fit.part("validation"), limit, make, version)
        if limit:
            images = self.part(spec, part)
            return images if limit >= len(images) else self._subsample(spec, part, images, limit)
        if fit != ALL_TRAINING:
            return self._of_fit(spec, part, role, fit)
        if part == "test":
            return self.split(spec, "test")
        if part == "outliers":
            return self.split(spec, "train")
        if part in ("tuning", "scored"):
            return self._half(spec, part)
        if self.has(spec, VALIDATION):
            return self.split(spec, VALIDATION if part == "validation" else "train")
        if (spec, part) not in self._parts:
            train = self.split(spec, "train")
            for name, images in zip(("train", "validation"), carve_validation(train, str(spec)), strict=True):
                how = f"{name} of {_split_by(train)}"
                self._parts[spec, name] = self._with_cached_checksum(spec, images, train, how)
        return self._parts[spec, part]

    def _half(self, spec: SetSpec, part: str) -> ImageSet:
        if (spec, part) not in self._parts:
            test = self.split(spec, "test")
            first = first_half(test)
            for name, rows in (("tuning", first), ("scored", ~first)):
                how = f"{name} of {_split_by(test)}"
                half = test.take(np.flatnonzero(rows))
                self._parts[spec, name] = self._with_cached_checksum(spec, half, test, how)
        return self._parts[spec, part]

    def _made_of(self, spec: SetSpec, part: str, of: str, limit: int, make: Change, version: str) -> ImageSet:
        """Images made from those of another part: slightly changed test images, or transformed validation images."""
        name = f"{limit} of {part}"
        if (spec, name) not in self._parts:
            whole = self.part(spec, of, limit)
            self._parts[spec, name] = self._with_cached_checksum(spec, make(whole), whole, version)
        return self._parts[spec, name]

    def _of_fit(self, spec: SetSpec, part: str, role: str, fit: FitImages) -> ImageSet:
        """A part of an ID set that is named by a rule of `data.fit_images`."""
        if (spec, part) not in self._parts:
            images = self._held_out(spec, role, fit) if fit.held_out else self._of_split(spec, role, fit)
            self._parts[spec, part] = with_others(self, spec, images, fit.pollution) if fit.pollution else images
        return self._parts[spec, part]

    def _held_out(self, spec: SetSpec, role: str, fit: FitImages) -> ImageSet:
        test = self.split(spec, "test")
        fitted, scored = held_out_rows(test, fit, str(spec))
        if role in ("fitted", "scored"):
            return test.take(fitted if role == "fitted" else scored)
        images = test.take(fitted)
        held_out = fit_validation_rows(images, str(spec))
        return images.take(np.flatnonzero(held_out == (role == "validation")))

    def _of_split(self, spec: SetSpec, role: str, fit: FitImages) -> ImageSet:
        """The images of the training or validation split that detectors learn from, at most so many of each class."""
        learnt, validated = counts_of(fit.per_class)
        own = not fit.val and self.has(spec, VALIDATION)
        whole = self.split(spec, VALIDATION if fit.val or (own and role == "validation") else "train")
        held_out = np.full(len(whole), role == "validation") if own else validation_rows(whole, str(spec))
        if (labels := whole.labels) is None:
            raise UserError(f"'{spec}' has no labels, so it cannot be an ID set. Choose a labelled set for --id.")
        kept = {"train": at_most(labels, ~held_out, learnt), "validation": at_most(labels, held_out, validated)}
        kept["fitted"] = kept["train"] | kept["validation"]
        return whole.take(np.flatnonzero(kept[role]))

    def image_shape(self, spec: SetSpec) -> tuple[int, int, int]:
        """Channels, height and width of the images of an ID set: of its training split, or its test split if it has no
        other."""
        try:
            return self.part(spec, "train").image_shape
        except UserError:
            raise
        except OodbenchError:
            return self.part(spec, "test").image_shape

    def kin(self, spec: SetSpec) -> str:
        """The wider family of a set. A cell's settings are never tuned on sets of the OOD set's own kin."""
        card = self.card(spec)
        return card.kin or card.family or spec.name

    def _subsample(self, spec: SetSpec, part: str, whole: ImageSet, limit: int) -> ImageSet:
        """Take `limit` images evenly spaced in stored order, so that a set sorted by class keeps its class balance."""
        name = f"{limit} of {part}"
        if (spec, name) not in self._parts:
            rows = np.arange(limit) * len(whole) // limit
            images = self._with_cached_checksum(spec, whole.take(rows), whole, f"{limit} of {SPLIT_VERSION}")
            missing = len(whole.classes) - len(np.unique(images.labels)) if images.labels is not None else 0
            if missing and parse_part(part)[0] not in TESTED:
                raise UserError(
                    f"{limit} training images leave {missing} of the {len(whole.classes)} classes of '{spec}' without "
                    "any. Choose a larger --limit-train."
                )
            self._parts[spec, name] = images
        return self._parts[spec, name]

    def share(self) -> None:
        """Upload the files that were read to the shared store, if there is one, for other machines."""
        if self.files.staged is not None:
            self.files.staged.stage({Path(path): sha for read in self.sources.values() for path, sha in read.items()})

    def num_classes(self, spec: SetSpec) -> int:
        """Number of classes of an ID set, of which a classifier needs two or more. Raises `UserError` for none."""
        classes = self.card(spec).classes
        if not classes:
            raise UserError(f"'{spec}' has no classes, so it cannot be an ID set. Choose a labelled set for --id.")
        return len(classes) if spec.classes is None else len(spec.classes)

    def class_names(self, spec: SetSpec) -> tuple[str, ...]:
        """Names of the classes of an ID set, in the order of its labels."""
        names = self.card(spec).classes
        return names if spec.classes is None else tuple(names[label] for label in spec.classes if label < len(names))

    def channels(self, spec: SetSpec, without: str = "") -> int:
        """Channels of a set: the most that the images of one of its splits have, so that colour in one decides.

        `without`: a split that is not there, or not used.
        """
        splits = (split for split in self.card(spec).splits if split != without and self.has(spec, split))
        return max(self.split(spec, split).image_shape[0] for split in splits)

    def has(self, spec: SetSpec, split: str) -> bool:
        """Whether a set has a split; one that it can do without must be available."""
        card = self.card(spec)
        if split not in card.splits:
            return False
        optional = isinstance(card, FileDataset) and split in card.optional
        return not optional or card.source(split, self.data_dir) is not None  # type: ignore[attr-defined]

    def same_distribution(self, one: SetSpec, other: SetSpec) -> bool:
        """Whether two sets sample the same distribution: same family, same forms, and at least one common class."""
        families = {self.card(spec).family or spec.name for spec in (one, other)}
        if len(families) > 1 or one.forms != other.forms:
            return False
        return one.classes is None or other.classes is None or bool(set(one.classes) & set(other.classes))

    def shared_images(self, seen: SetSpec, ood: SetSpec, seen_as: str = "outliers", scored_as: str = "test") -> int:
        """Count the images of a part of an OOD set that also occur in a part of another set, equal in every pixel.

        By default, test images of the OOD set that are in the other set's training split.
        """
        # Small sets in memory are counted faster than a count is read from the disk.
        stored = all(isinstance(self.card(spec), FileDataset) for spec in (seen, ood))
        return self._duplicates.exact(self.part(seen, seen_as), self.part(ood, scored_as), stored)

    def split(self, spec: SetSpec, split: str) -> ImageSet:
        """A stored split of a set, restricted to the spec's classes and with its forms applied."""
        if (spec, split) not in self._splits:
            self._splits[spec, split] = self._select(spec, split)
        return self._splits[spec, split]

    def _load(self, name: str, split: str) -> ImageSet:
        if (name, split) not in self._loaded:
            card: Dataset = registry.get("dataset", name)()
            if split not in card.splits:
                only = f"Data set '{name}' has no {split} split, only {', '.join(card.splits)}."
                raise DataError(card.lacks(split) if isinstance(card, FileDataset) else only)
            if isinstance(card, FileDataset):
                return self._loaded.setdefault((name, split), self._open_files(card, split))
            reason = asked(card, "missing", self.data_dir)
            if reason:
                raise DataError(reason)
            images = copy_views(_load_split(card, split, self.data_dir))
            if card.channels not in (None, images.image_shape[0]):
                raise DataError(
                    f"Data set '{name}' declares {count_of(card.channels or 0)}, and its {split} split has images of "
                    f"{images.image_shape[0]}. Correct 'channels', or what load() returns."
                )
            if card.checksums.get(split, images.checksum) != images.checksum:
                self.notes.append(
                    f"{name} ({split}) is not what its card describes: SHA-256 {images.checksum[:12]} in place of "
                    f"{card.checksums[split][:12]}; its numbers compare with no others."
                )
            self._loaded[name, split] = wrapped(images, self.files.view)
        return self._loaded[name, split]

    def _open_files(self, card: FileDataset, split: str) -> ImageSet:
        """Open a split that consists of files, and record its notes and sources."""
        opened = card.open(split, self.files)
        self.notes += [note for note in opened.notes if note not in self.notes]
        self.sources[f"{card.name} ({split})"] = dict(opened.files)
        return opened.images

    def _select(self, spec: SetSpec, split: str) -> ImageSet:
        whole = images = self._load(spec.name, split)
        how, is_covered = "", True
        if spec.classes is not None:
            images = only_classes(images, spec)
            how = f"classes {spec.classes}"
        for name in spec.forms:
            form = registry.get("form", name)
            source = examine(form)
            images = _in_form(images, form, spec.name, source.version)
            how, is_covered = f"{how} {name} {source.version}", is_covered and not source.uncovered
        return self._with_cached_checksum(spec, images, whole, how) if how and is_covered else images

    def _with_cached_checksum(self, spec: SetSpec, images: ImageSet, whole: ImageSet, how: str) -> ImageSet:
        """Take the checksum of a file data set's subset from the cache: such sets may be large and slow to hash."""
        if not isinstance(self.card(spec), FileDataset):
            return images
        name = f"{whole.checksum} {how.strip()}"
        return images.with_checksum(self.files.cache.checksum(name, lambda: images.checksum))


def _in_form(images: ImageSet, form: type[Form], name: str, version: str) -> ImageSet:
    """A set with a form applied to every image; when they are read, if they are decoded then."""
    if (lazy := images.lazy) is None:
        return replace(images, images=changed(form(), images.images, name))
    made = DerivedImages(lazy, [lambda pixels: changed(form(), pixels, name)], f"form {form.name} {version}")
    return ImageSet.read_lazily(made, images.labels, images.classes, images.groups, images.find_names)


def _split_by(images: ImageSet) -> str:
    """What decides, besides the images, how a split is divided; part of the cache key of a part's checksum."""
    return f"{SPLIT_VERSION} by {images.groups_checksum}" if images.groups is not None else SPLIT_VERSION


def _load_split(card: Dataset, split: str, data_dir: Path) -> ImageSet:
    """Call a plug-in's `load`; whatever it raises or returns becomes an image set or a `DataError` that names it."""
    try:
        images: object = card.load(split, data_dir)
    except OodbenchError as error:
        if card.name in str(error):
            raise
        reason = str(error).rstrip(".")
        raise DataError(f"Data set '{card.name}' has no usable {split} split: {reason}.") from error
    except Exception as error:  # third-party loaders and damaged files may raise anything
        raise DataError(
            f"Data set '{card.name}' has no readable {split} split: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(images, ImageSet):
        raise DataError(f"Data set '{card.name}': load() must return an ImageSet, got {type(images).__name__}.")
    return images
