"""Makes data sets of what the user gives with `--outputs` and `--scores`, so that the rest of a run finds its images.

They have no pixels (`images.py`). Several folders are one for each seed: the same images under networks trained with
different seeds.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from oodbench.benchmark.data.outputs.given import TEST, TRAIN, VAL, GivenArrays, GivenOutputs
from oodbench.benchmark.data.outputs.images import GivenImages
from oodbench.benchmark.data.outputs.joining import joined
from oodbench.benchmark.data.outputs.reading import read_outputs
from oodbench.benchmark.data.outputs.scores import read_scores
from oodbench.benchmark.data.splits import VALIDATION_SHARE, validation_rows
from oodbench.benchmark.errors import DataError, UserError, visible
from oodbench.benchmark.plugins.dataset import Dataset, ImageSet
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.specs import SetSpec
from oodbench.benchmark.records.given_sets import PREFIX, registered_name


class GivenSource(NamedTuple):
    """Where given arrays are."""

    outputs: tuple[str, ...] = ()
    """Absolute paths of folders of outputs, one for each seed; empty if only scores are given."""
    scores: str = ""
    """Absolute path of a folder or file of scores; empty without any."""
    higher: str = ""
    """'ood' or 'id', what higher scores mean; empty for what the files say."""

    @property
    def text(self) -> str:
        """As one text, by which other processes register the same sets."""
        return PREFIX + json.dumps(self)

    @property
    def exists(self) -> bool:
        """Whether all of its folders and files are there."""
        return all(Path(path).exists() for path in (*self.outputs, *([self.scores] if self.scores else [])))

    @property
    def hash(self) -> str:
        """SHA-256 of the paths that say which images there are: scores beside outputs are of the same."""
        paths = self.outputs or (self.scores,)
        return hashlib.sha256(json.dumps(paths).encode(errors="surrogatepass")).hexdigest()

    @classmethod
    def parse(cls, text: str) -> GivenSource | None:
        """The inverse of `text`; None for another text."""
        if not text.startswith(f"{PREFIX}["):
            return None
        outputs, scores, higher = json.loads(text.removeprefix(PREFIX))
        return cls(tuple(outputs), scores, higher)


class GivenSets(NamedTuple):
    """Given arrays, and the data sets that were registered for their images."""

    source: GivenSource
    of_seeds: tuple[GivenOutputs, ...]
    """One for each folder of outputs; a single one serves all seeds."""
    id_set: SetSpec
    ood_sets: Mapping[str, SetSpec]
    """The user's name -> the registered one."""
    datasets: tuple[type[GivenDataset], ...] = ()
    """What is registered under these names."""

    def register(self) -> None:
        """Register the sets under their names, of which the same outputs with other scores have the same."""
        for dataset in self.datasets:
            registry.adopt("dataset", dataset.name, dataset, f"outputs {dataset.origin}")

    @property
    def first(self) -> GivenOutputs:
        """The arrays by which the sets are described; the others have the same images."""
        return self.of_seeds[0]


class GivenDataset(Dataset):
    """Images of one set, in the place of which there are arrays."""

    sets: ClassVar[GivenSource]
    of_seeds: ClassVar[tuple[GivenOutputs, ...]]
    own_name: ClassVar[str]
    """What the user calls the set."""
    is_id: ClassVar[bool]

    def arrays(self, split: str, place: int = 0) -> GivenArrays:
        """The arrays of a split; `place`: which folder of outputs they are of."""
        given = self.of_seeds[place if len(self.of_seeds) > 1 else 0]
        return given.id[split] if self.is_id else given.ood[self.own_name]

    def load(self, split: str, data_dir: Path) -> ImageSet:
        """The images of a split, without pixels. Without `id_val`, ID validation is held out of the training split."""
        if self.is_id and VAL not in self.of_seeds[0].id and split in (TRAIN, VAL):
            whole = self._whole(TRAIN)
            held_out = _held_out(whole, self.own_name)
            return whole.take(np.flatnonzero(held_out == (split == VAL)))
        return self._whole(split)

    def _whole(self, split: str) -> ImageSet:
        arrays = self.arrays(split)
        images = GivenImages(self.own_name, split, arrays)
        if not arrays.count:
            raise DataError(f"'{self.own_name}' has no images")
        return ImageSet.read_lazily(images, arrays.labels if self.is_id else None, self.classes)


def read_given(source: GivenSource) -> tuple[GivenOutputs, ...]:
    """Open the arrays at a source. Raises `UserError` if they cannot be used, or folders have other images."""
    higher = source.higher or None
    scores = read_scores(Path(source.scores), higher) if source.scores else None
    if not source.outputs:
        assert scores is not None
        return (scores,)
    outputs = [read_outputs(Path(path), None if source.scores else higher) for path in source.outputs]
    for other in outputs[1:]:
        _check_same_images(outputs[0], other)
    return tuple(joined(one, scores) if scores else one for one in outputs)


def register_given(source: GivenSource) -> GivenSets:
    """Open the arrays at a source and register a data set for each of their sets."""
    of_seeds = read_given(source)
    first = of_seeds[0]
    splits = [split for split in (TRAIN, VAL, TEST) if split in first.id]
    if TRAIN in splits and VAL not in splits:
        splits.insert(1, VAL)
    id_set = _dataset(source, of_seeds, first.id_set, tuple(splits), first.classes)
    ood_sets = {name: _dataset(source, of_seeds, name) for name in first.ood}
    specs = {name: SetSpec(dataset.name) for name, dataset in ood_sets.items()}
    sets = GivenSets(source, of_seeds, SetSpec(id_set.name), specs, (id_set, *ood_sets.values()))
    sets.register()
    return sets


def registered_sources() -> tuple[str, ...]:
    """The sources whose sets were registered in this process, as texts; without those that an earlier run had and that
    are gone."""
    entries = registry.entries("dataset")
    loaded = (entry.load() for name, entry in entries.items() if name.startswith(PREFIX))
    return tuple(dict.fromkeys(dataset.sets.text for dataset in loaded if dataset.sets.exists))


def _dataset(
    source: GivenSource,
    of_seeds: tuple[GivenOutputs, ...],
    own_name: str,
    splits: tuple[str, ...] = (TEST,),
    classes: tuple[str, ...] | None = None,
) -> type[GivenDataset]:
    """The data set of one set; `classes` are those of an ID set, None for an OOD set."""
    name = registered_name(source.hash, own_name)
    where = visible(str(of_seeds[0].source))
    title = f"'{own_name}', of which there are arrays in {where}"
    members: dict[str, object] = {"__module__": __name__, "__doc__": f"{title}."}
    members |= {"sets": source, "of_seeds": of_seeds, "own_name": own_name, "is_id": classes is not None}
    members |= {"splits": splits, "classes": classes or (), "origin": where, "channels": None}
    members |= {"licence": "That of the user's own data", "caveats": "Arrays without images."}
    dataset: type[GivenDataset] = type("UserOutputs", (GivenDataset,), members)
    dataset.name, dataset.title = name, title
    return dataset


def _held_out(train: ImageSet, name: str) -> np.ndarray:
    """Mask of the training images that become ID validation: as for other sets, or the last tenth without labels."""
    if train.labels is not None:
        return validation_rows(train, name)
    rows = np.arange(len(train))
    return rows >= len(train) - max(1, round(VALIDATION_SHARE * len(train)))


def _check_same_images(one: GivenOutputs, other: GivenOutputs) -> None:
    """Raise `UserError` if two folders, which count as seeds, have other sets, images, labels or classes."""
    both = f"'{one.source}' and '{other.source}' count as seeds of one network, so they must have the same"
    if (one.id.keys(), one.ood.keys()) != (other.id.keys(), other.ood.keys()):
        names = [", ".join([*(f"id_{split}" for split in given.id), *given.ood]) for given in (one, other)]
        raise UserError(f"{both} sets; the first has {names[0]}, the second {names[1]}.")
    if one.classes != other.classes:
        raise UserError(f"{both} classes; the first has {len(one.classes)}, the second {len(other.classes)}.")
    for name, first, second in _pairs(one, other):
        if first.count != second.count or first.names != second.names:
            raise UserError(f"{both} images of '{name}', in the same order.")
        if not _equal(first.labels, second.labels):
            raise UserError(f"{both} labels of '{name}'.")
        for what in ("logits", "features"):
            if (getattr(first, what) is None) != (getattr(second, what) is None):
                raise UserError(f"{both} arrays; only one of them has {what} of '{name}'.")


def _pairs(one: GivenOutputs, other: GivenOutputs) -> Iterator[tuple[str, GivenArrays, GivenArrays]]:
    yield from ((f"id_{split}", arrays, other.id[split]) for split, arrays in one.id.items())
    yield from ((name, arrays, other.ood[name]) for name, arrays in one.ood.items())


def _equal(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    return one is other or (one is not None and other is not None and np.array_equal(one, other))
