"""What is worth a note of pictures that become 32 x 32, and their rotation by EXIF data, if that is asked for."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

from PIL import Image

from oodbench.benchmark.data.files.decode import Decoded, Reader
from oodbench.benchmark.data.files.native.open_split import IS_ROTATED, NOT_ROTATED, ONE_OF_SEVERAL
from oodbench.benchmark.data.files.pixels import SIDE
from oodbench.benchmark.data.pictures.stored import FORMATS, is_rotated
from oodbench.benchmark.records.record import WARNING

LARGE_SIDE = 2 * SIDE
"""Pixels of the shorter side from which on a picture loses most of what it shows at 32 x 32."""

LARGER = "larger than 32x32"
"""Counted among the remarks on a split, and said once for its set."""

TOO_LARGE = (
    f"{WARNING}'{{}}' is shown to networks at 32x32, although its pictures are larger. Give a size with --resize and "
    "--crop, or choose a network with a preprocessing of its own (--backbone torchvision:... or timm:...)."
)


@runtime_checkable
class Rotating(Protocol):
    """A reader of pictures that can rotate them."""

    def decoded(self, paths: Sequence[Path], exif: bool = False) -> Decoded:
        """As `Reader.read`; with `exif`, pictures are rotated as their EXIF data state."""
        ...


@dataclass(frozen=True)
class Upright:
    """The images of another reader, rotated as their EXIF data state."""

    reader: Rotating

    def read(self, paths: Sequence[Path]) -> Decoded:
        """Decode and rotate the images of the split."""
        return self.reader.decoded(paths, exif=True)


def upright(reader: Reader) -> Reader:
    """A reader that rotates pictures, if the given one can."""
    return Upright(reader) if isinstance(reader, Rotating) else reader


def remarks_on(content: bytes, exif: bool = False) -> list[str]:
    """What to note of an image that is used. Only the header is read."""
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as image:
            remarks = [LARGER] if min(image.size) >= LARGE_SIDE else []
            if is_rotated(image):
                remarks.append(IS_ROTATED if exif else NOT_ROTATED)
            if image.format == "MPO":
                remarks.append(ONE_OF_SEVERAL)
            return remarks
    except Exception:  # a damaged image; decoding decides whether it can be used
        return []


def inspected(
    stored: Iterator[tuple[int, str, bytes]], found: dict[int, list[str]], exif: bool
) -> Iterator[tuple[int, str, bytes]]:
    """The same images; `found` receives row -> remarks on the way."""
    for row, name, content in stored:
        found[row] = remarks_on(content, exif)
        yield row, name, content


def counted(found: Mapping[int, list[str]], bad: Collection[int]) -> Counter[str]:
    """Remark -> number of images, without the bad ones."""
    return Counter(remark for row, of_row in found.items() if row not in bad for remark in of_row)


def split_off_size(remarks: Mapping[str, int], images: int) -> tuple[dict[str, int], bool]:
    """The remarks but for the one on size, and whether that is true of most images."""
    others = {remark: count for remark, count in remarks.items() if remark != LARGER}
    return others, remarks.get(LARGER, 0) > images // 2
