"""Sets of images in memory, as the user has them, read in batches and always in the same order.

DataLoaders, data sets in the style of torchvision and of Hugging Face, tensors and arrays, and iterables of batches.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, RandomSampler, SequentialSampler, Subset

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.stages.models.items import item_of, tensor_of

BATCH = 64
"""Images in a batch of what is not a DataLoader already."""

COMPARED = 3
"""Images that are read twice, to find out whether they change."""


@dataclass(frozen=True)
class Source:
    """A set of images."""

    title: str
    """What it is called in messages: 'id_train'."""
    batches: Callable[[], Iterator[Any]]
    """Begins a reading."""
    count: int | None = None
    """Number of images, where it is known beforehand."""
    is_read_once: bool = False
    """Whether it is used up by a reading, as a generator is."""
    names: tuple[str, ...] | None = None
    classes: tuple[str, ...] = ()
    transform: str = ""
    """What the data set does to its pictures, in its own words."""
    set_name: str = ""
    notes: tuple[str, ...] = ()


def opened(data: Any, title: str, batch_size: int = BATCH) -> Source:
    """A set of images in whatever form the user has it. Raises `UserError` for what cannot be read."""
    if isinstance(data, Source):
        return data
    if isinstance(data, str | Path):
        raise UserError(
            f"{title} is the path '{data}', expected a DataLoader, a data set or tensors of images. Folders of images "
            "go with a backbone: run(id_sets='folder:PATH', backbone=...)."
        )
    if isinstance(data, Tensor | np.ndarray):
        return _arrays(tensor_of(data, title), None, title, batch_size)
    if isinstance(data, tuple) and len(data) == 2 and all(isinstance(part, Tensor | np.ndarray) for part in data):
        images, labels = tensor_of(data[0], title), data[1]
        if images.ndim > 3 or labels.ndim == 1:
            return _arrays(images, labels, title, batch_size)
    if isinstance(data, DataLoader):
        return _loader(data, title)
    if isinstance(data, Mapping):
        raise UserError(
            f"{title} is a dictionary of {', '.join(map(repr, itertools.islice(data, 5)))}, expected one set of "
            "images. Give one of its splits."
        )
    if isinstance(data, IterableDataset) or (_is_hugging_face(data) and not hasattr(data, "__len__")):
        stream = data if isinstance(data, IterableDataset) else _Stream(data)
        return _described(Source(title, lambda: iter(_batched(stream, batch_size, title))), data)
    if isinstance(data, Sequence) and (not data or not _holds_samples(data, title)):
        return _listed(data, title)
    if hasattr(data, "__getitem__") and hasattr(data, "__len__"):
        return _loader(_batched(data, batch_size, title), title)
    if isinstance(data, Iterable):
        return Source(title, lambda: iter(data), is_read_once=isinstance(data, Iterator))
    raise UserError(
        f"{title} is of type {type(data).__name__}, expected a DataLoader, a data set, tensors of images, or an "
        "iterable of batches."
    )


def _arrays(images: Tensor, labels: Any, title: str, size: int) -> Source:
    if images.ndim < 2 or not len(images):
        raise UserError(f"{title} is an array of shape {tuple(images.shape)}, expected images (N, C, H, W).")
    if labels is not None and len(labels) != len(images):
        raise UserError(f"{title} has {len(images):,} images and {len(labels):,} labels, expected one for each.")

    def batches() -> Iterator[Any]:
        for start in range(0, len(images), size):
            rows = slice(start, start + size)
            yield images[rows] if labels is None else (images[rows], labels[rows])

    return Source(title, batches, len(images))


def _holds_samples(data: Sequence[Any], title: str) -> bool:
    """Whether a list holds single images, as a data set does, and not batches."""
    return item_of(data[0], title).images.ndim < 4


def _listed(data: Sequence[Any], title: str) -> Source:
    if not data:
        raise UserError(f"{title} is empty.")
    return Source(title, lambda: iter(data))


def _loader(loader: DataLoader[Any], title: str) -> Source:
    """A DataLoader, in the order of its data set, with all of its images."""
    data, notes = loader.dataset, []
    if isinstance(data, IterableDataset):
        return _described(Source(title, lambda: iter(loader)), data)
    if not len(data):  # type: ignore[arg-type]
        raise UserError(f"{title} has no images.")
    sampler = loader.sampler
    is_shuffled = isinstance(sampler, RandomSampler) and not sampler.replacement and len(sampler) == len(data)  # type: ignore[arg-type]
    is_in_order = isinstance(sampler, SequentialSampler) and loader.batch_size is not None
    if is_shuffled or (is_in_order and loader.drop_last):
        what = "shuffles" if is_shuffled else "drops its last, smaller batch"
        notes.append(f"the DataLoader of {title} {what}; all images were read in the order of its data set")
        loader, is_in_order = _in_order(loader), True
    elif not is_in_order:
        _refuse_random_order(loader, title)
    count = len(data) if is_in_order else None  # type: ignore[arg-type]
    if _changes(data):
        notes.append(
            f"images of {title} change from one reading to the next, as by random augmentation; give it the transform "
            "of the evaluation"
        )
    source = Source(title, lambda: iter(loader), count, notes=tuple(notes))
    return _described(source, data, names=is_in_order)


class _Stream(IterableDataset[Any]):
    """A stream of Hugging Face, for torch."""

    def __init__(self, data: Iterable[Any]) -> None:
        self.data = data

    def __iter__(self) -> Iterator[Any]:
        return iter(self.data)


def _batched(data: Any, size: int, title: str) -> DataLoader[Any]:
    """A data set in batches; its generator keeps torch's own as it was."""
    return DataLoader(data, batch_size=size, collate_fn=partial(_stacked, title), generator=torch.Generator())


def _stacked(title: str, samples: Sequence[Any]) -> tuple[Tensor, list[Any] | None]:
    """A batch of single images, with labels if all have one; what else they hold is left out."""
    items = [item_of(sample, title) for sample in samples]
    shapes = {tuple(item.images.shape) for item in items}
    if len(shapes) > 1:
        one, other = sorted(shapes)[:2]
        raise UserError(
            f"{title} has images of several shapes, {one} and {other}, which make no batch. Let its transform resize "
            "and crop them."
        )
    labels = [item.labels for item in items]
    return torch.stack([item.images for item in items]), None if None in labels else labels


def _in_order(loader: DataLoader[Any]) -> DataLoader[Any]:
    """The same loader over all images of its data set, in their order."""
    return DataLoader(
        loader.dataset,
        batch_size=loader.batch_size,
        num_workers=loader.num_workers,
        collate_fn=loader.collate_fn,
        pin_memory=loader.pin_memory,
        timeout=loader.timeout,
        worker_init_fn=loader.worker_init_fn,
        multiprocessing_context=loader.multiprocessing_context,
        generator=torch.Generator(),
    )


def _refuse_random_order(loader: DataLoader[Any], title: str) -> None:
    """Raise `UserError` for a sampler that draws other images, or another order, every time, or a share of them."""
    sampler: Any = loader.sampler if loader.batch_size is not None else loader.batch_sampler or loader.sampler
    kind = type(sampler).__name__
    if getattr(sampler, "num_replicas", 1) > 1:
        raise UserError(
            f"The DataLoader of {title} reads a share of the images ({kind}, {sampler.num_replicas} processes). Give a "
            "DataLoader without this sampler."
        )
    with torch.random.fork_rng(devices=[]):
        first, second = (list(itertools.islice(iter(sampler), 256)) for _ in range(2))
    if first != second:
        raise UserError(
            f"The DataLoader of {title} draws images at random ({kind}), and the order of images decides what is "
            "compared. Give one with shuffle=False; for some of the images, over torch.utils.data.Subset."
        )


def _changes(data: Any) -> bool:
    """Whether the first images of a data set are others when they are read again."""
    with torch.random.fork_rng(devices=[]):
        for index in range(min(COMPARED, len(data))):
            try:
                one, two = (item_of(data[index], "the data set").images for _ in range(2))
            except UserError:  # the loader makes tensors of what the data set yields
                return False
            if one.shape != two.shape or not torch.equal(one, two):
                return True
    return False


def _described(source: Source, data: Any, names: bool = False) -> Source:
    """The source with what its data set says about itself."""
    return replace(
        source,
        classes=_classes(data),
        transform=_transform(data),
        set_name=_set_name(data),
        names=_names(data) if names else None,
    )


def _inner(data: Any) -> Any:
    return _inner(data.dataset) if isinstance(data, Subset) else data


def _names(data: Any) -> tuple[str, ...] | None:
    """The paths of the images relative to the data set's folder, as torchvision's folders know them."""
    if isinstance(data, Subset):
        names = _names(data.dataset)
        return None if names is None else tuple(names[index] for index in data.indices)
    samples = getattr(data, "samples", None)
    if not isinstance(samples, list) or len(samples) != len(data) or not samples:
        return None
    paths = [sample[0] if isinstance(sample, tuple) else sample for sample in samples]
    if not all(isinstance(path, str | Path) for path in paths):
        return None
    root = getattr(data, "root", None)
    return tuple(Path(os.path.relpath(path, root) if root else path).as_posix() for path in paths)


def _classes(data: Any) -> tuple[str, ...]:
    """The names of the classes, as torchvision (`classes`) or Hugging Face (`features['label'].names`) have them."""
    inner = _inner(data)
    named = getattr(inner, "classes", None)
    if named is None and _is_hugging_face(inner):
        features = getattr(inner, "features", None) or {}
        named = next((getattr(features[key], "names", None) for key in ("label", "labels") if key in features), None)
    is_list = isinstance(named, list | tuple) and all(isinstance(name, str) for name in named)
    return tuple(named) if is_list and named else ()


def _transform(data: Any) -> str:
    inner = _inner(data)
    transform = getattr(inner, "transform", None)
    if transform is None and _is_hugging_face(inner):
        transform = (getattr(inner, "format", None) or {}).get("format_kwargs", {}).get("transform")
    if transform is None:
        return ""
    if hasattr(transform, "__name__"):
        return f"the function {transform.__name__}"
    text = " ".join(str(transform).split()).replace("( ", "(").replace(" )", ")")
    return text if " object at 0x" not in text else type(transform).__name__


def _set_name(data: Any) -> str:
    """The name of the data set: that of its class, or Hugging Face's."""
    inner = _inner(data)
    if _is_hugging_face(inner):
        return str(getattr(getattr(inner, "info", None), "dataset_name", None) or "")
    name = type(inner).__name__
    return "" if name in ("TensorDataset", "ConcatDataset", "ImageFolder", "DatasetFolder", "list", "tuple") else name


def _is_hugging_face(data: Any) -> bool:
    return hasattr(data, "column_names") and hasattr(data, "__iter__")
