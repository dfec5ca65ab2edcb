"""Thumbnails of the images that detectors get wrong, each once for all detectors, within a number of bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from PIL import Image, features

from oodbench.benchmark.comparisons.image_scores import printable
from oodbench.benchmark.comparisons.scored_images import ScoredImages
from oodbench.benchmark.data.imagenet_classes import named_class
from oodbench.benchmark.errors import OodbenchError, first_line, visible
from oodbench.benchmark.plugins.dataset import ImageSet
from oodbench.benchmark.plugins.pictures import Pixels
from oodbench.benchmark.views.report import data
from oodbench.benchmark.views.report.mistakes import OnSet

SIDE = 96
"""Pixels of the longer side of a thumbnail; images that are smaller keep their size."""

QUALITY, EFFORT = 70, 2
"""Of WebP: quality up to 100, effort from 0 to 6."""

RANKS = 4
"""Ranks of all lists whose images are read together."""

NO_PIXELS = "only outputs of a network, or scores, were given"
NOT_LOOKED_UP = "the images were not looked up"
"""Why there are no pictures."""

NAMED, LISTED = 80, 28
"""Bytes that the name and label of a picture take, and its place in a list; about."""

Key = tuple[str, int]
"""A set's images, and the number of one of them."""


@dataclass(frozen=True, eq=False)
class _Source:
    """The images of one set, and the lists of those that are shown."""

    on: OnSet
    key: str
    """Equal for sets with the same images."""
    images: ImageSet | None
    names: Sequence[str] | None
    why: str
    """Why there are no pictures; empty if there are."""
    majority: Sequence[int]

    def at(self, ranks: slice) -> Iterator[int]:
        """The images at these ranks of the rows' lists."""
        return (image for found in self.on.rows for image in found.images[ranks])


def with_pictures(
    on_sets: Sequence[tuple[OnSet, ScoredImages | None]], count: int, most_bytes: int
) -> tuple[list[data.Mistakes], list[data.Picture]]:
    """The mistakes on every set, and the pictures that they share.

    Args:
        on_sets: The mistakes, each with where its images are looked up; None if they are not.
        count: Images of each list at most.
        most_bytes: Bytes of all of it at most, about. If there would be more, the rows' lists are cut, all to the same
            length; those of the majority are whole.
    """
    sources = [_source(on, images, count) for on, images in on_sets]
    album = _Album()
    room = most_bytes - LISTED * sum(len(source.majority) + len(list(source.at(slice(count)))) for source in sources)
    sources = [album.add(source, source.majority) for source in sources]
    kept = count
    for start in range(0, count, RANKS):
        ranks = slice(start, start + RANKS)
        sources = [album.add(source, source.at(ranks)) for source in sources]
        if album.bytes > room:
            kept = start
            break
    return [album.mistakes(source, count, kept if source.why == "" else count) for source in sources], album.pictures


def _source(on: OnSet, images: ScoredImages | None, count: int) -> _Source:
    found = NOT_LOOKED_UP if images is None else images.of(on.record, on.set_name, on.images)
    majority = on.majority()[:count].tolist()
    if isinstance(found, str):
        return _Source(on, f"{on.shown.place} {on.place}", None, None, found, majority)
    why = "" if found.has_pixels else NO_PIXELS
    return _Source(on, found.checksum, found, found.names, why, majority)


class _Album:
    """Pictures as they are added."""

    def __init__(self) -> None:
        self.uris: Mapping[Key, str] = {}
        self.pictures: list[data.Picture] = []
        self._places: dict[Key, int] = {}

    @property
    def bytes(self) -> int:
        """Of all pictures, with their names and labels."""
        return sum(len(uri) + NAMED for uri in self.uris.values())

    def add(self, source: _Source, numbers: Iterable[int]) -> _Source:
        """Read and encode images that are new; returns the source, without pictures if its images cannot be read."""
        wanted = [number for number in dict.fromkeys(numbers) if (source.key, number) not in self.uris]
        if source.why or source.images is None or not wanted:
            return source
        try:
            pixels = source.images.images[np.array(sorted(wanted))]
        except (OodbenchError, OSError) as error:
            return replace(source, why=f"the images cannot be read: {first_line(error)}")
        encoded = {(source.key, number): data_uri(one) for number, one in zip(sorted(wanted), pixels, strict=True)}
        self.uris = {**self.uris, **encoded}
        return source

    def mistakes(self, source: _Source, count: int, kept: int) -> data.Mistakes:
        """What the page shows of one set, with the first `kept` images of each row."""
        on = source.on
        shares = on.confidence / max(on.voters, 1)
        return data.Mistakes(
            block=on.shown.place,
            set=on.place,
            images=on.images,
            detectors=on.voters,
            by_majority=[self._mistake(source, image, float(shares[image])) for image in source.majority],
            majority_wrong=len(on.majority()),
            by_row=[
                data.RowMistakes(
                    found.row,
                    found.threshold,
                    found.wrong,
                    [
                        self._mistake(source, image, score)
                        for image, score in zip(found.images[:kept], found.scores, strict=False)
                    ],
                )
                for found in on.rows
            ],
            note=_note(source, count, kept),
        )

    def _mistake(self, source: _Source, image: int, score: float) -> data.Mistake:
        return data.Mistake(self._picture(source, image), float(f"{score:.6g}"), int(source.on.votes[image]))

    def _picture(self, source: _Source, image: int) -> int:
        key = (source.key, image)
        if key not in self._places:
            name = f"image {image}" if source.names is None else source.names[image]
            uri = self.uris.get(key, "") if source.why == "" else ""
            self._places[key] = len(self.pictures)
            self.pictures.append(data.Picture(visible(printable(name)), _label(source.images, image), uri))
        return self._places[key]


def _label(images: ImageSet | None, image: int) -> str:
    if images is None or images.labels is None:
        return ""
    return visible(named_class(images.classes[int(images.labels[image])]))


def _note(source: _Source, count: int, kept: int) -> str:
    name = visible(source.on.set_name)
    if source.why:
        reason = source.why.removeprefix("whose images are ").removeprefix("because ")
        return f"No pictures of {name}: {reason.rstrip('.')}."
    if kept < count:
        return f"{kept} images of each detector in place of {count}, to keep the report small."
    return ""


def data_uri(pixels: Pixels) -> str:
    """An image uint8 (C, H, W) as a small picture in a data URI; equal pixels give equal text."""
    picture = Image.fromarray(np.ascontiguousarray(pixels[0] if len(pixels) == 1 else pixels[:3].transpose(1, 2, 0)))
    if max(picture.size) > SIDE:
        picture.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    out = io.BytesIO()
    if features.check("webp"):
        picture.save(out, "WEBP", quality=QUALITY, method=EFFORT)
        return f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode()}"
    picture.save(out, "JPEG", quality=QUALITY)
    return f"data:image/jpeg;base64,{base64.b64encode(out.getvalue()).decode()}"
