"""Turns what users have into a network's input: arrays, tensors, Pillow images, paths, and lists of these.

Arrays and tensors are the network's input already: of its size, uint8, or floating point in [0, 1]. Pillow images and
files are pictures, which are resized and cropped as those of the run were.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from oodbench.benchmark.data.channels import WEIGHTS, are_convertible, in_channels
from oodbench.benchmark.data.pictures.source import BadImageError, read_file
from oodbench.benchmark.data.pictures.stored import GREY_MODES, is_rotated, is_transparent, opened
from oodbench.benchmark.errors import DataError
from oodbench.benchmark.standalone.bundle.contents import NetworkInput
from oodbench.benchmark.standalone.bundle.scoring import Pixels

BATCH_AXES, IMAGE_AXES, GREY_AXES = 4, 3, 2

ACCEPTED = "Pass arrays or tensors, Pillow images, paths, or a list of these."


class Reader:
    """Brings images to a network's channels and size, and counts what was converted."""

    def __init__(self, network: NetworkInput) -> None:
        self.input = network
        self.converted = 0
        """Pictures in colour that a grey network got as their luma, so far."""

    def pieces(self, images: Any, size: int) -> Iterator[Pixels]:
        """Any kind of images, in pieces of at most `size`. Raises `DataError` for what cannot be used."""
        if _is_array(images):
            whole = self.of_array(images)
            yield from (whole[start : start + size] for start in range(0, len(whole), size))
            return
        held: list[Pixels] = []
        for one in self._each(images):
            if held and held[0].dtype != one.dtype:  # both become floats
                held = [_as_floats(image) for image in held]
                one = _as_floats(one)
            held.append(one)
            if len(held) == size:
                yield np.concatenate(held)
                held = []
        if held:
            yield np.concatenate(held)

    def _each(self, images: Any) -> Iterator[Pixels]:
        """Images one at a time, (1, C, H, W)."""
        if isinstance(images, str | Path) or _is_picture(images):
            images = [images]
        if not isinstance(images, Iterable):
            raise DataError(f"Cannot read images from a {type(images).__name__}. {ACCEPTED}")
        for number, one in enumerate(images):
            try:
                if isinstance(one, str | Path):
                    yield self.of_file(Path(one))
                elif _is_picture(one):
                    yield self.of_picture(one)
                elif _is_array(one):
                    array = self.of_array(one)
                    yield from (array[row : row + 1] for row in range(len(array)))
                else:
                    raise DataError(f"it is a {type(one).__name__}. {ACCEPTED}")
            except BadImageError as error:
                raise DataError(f"'{one}' {error}.") from error
            except DataError as error:
                raise DataError(f"Image {number} cannot be used: {error}") from error

    def of_file(self, path: Path) -> Pixels:
        """The picture in a file, uint8 (1, C, H, W). Raises `BadImageError` if it cannot be used."""
        return self.of_bytes(read_file(path))

    def of_bytes(self, content: bytes) -> Pixels:
        """An encoded picture, uint8 (1, C, H, W). Raises `BadImageError` if it cannot be used."""
        with opened(content) as (picture, _):
            upright = ImageOps.exif_transpose(picture) if self.input.exif and is_rotated(picture) else picture
            return self.of_picture(upright)

    def of_picture(self, picture: Image.Image) -> Pixels:
        """A Pillow image, uint8 (1, C, H, W). Raises `BadImageError` for one of more than 8 bits a channel."""
        grey = picture.mode in GREY_MODES
        if picture.mode.startswith(("I", "F")):
            raise BadImageError("has more than 8 bits a channel; convert it to 8")
        if self.input.preprocessing is None and is_transparent(picture):
            raise BadImageError("has transparent pixels; flatten it onto a background")
        plain = picture.convert("L" if grey else "RGB")
        sized = self._sized(plain)
        pixels = np.asarray(sized)
        planes = pixels[None] if pixels.ndim == GREY_AXES else pixels.transpose(2, 0, 1)
        return self._in_channels(planes[None])

    def of_array(self, images: Any) -> Pixels:
        """An array or a tensor of one image, or of N, in the network's channels: (N, C, H, W).

        Raises `DataError` for another size, for values that are none of pixels, and for other types.
        """
        array = _as_numpy(images)
        batch = self._batch(array)
        if batch.dtype == np.uint8:
            return self._in_channels(batch)
        if batch.dtype.kind != "f":
            raise DataError(
                f"Images have type {batch.dtype}; expected uint8 from 0 to 255, or floating point from 0 to 1."
            )
        if not np.isfinite(batch).all() or batch.min() < 0 or batch.max() > 1:
            raise DataError(
                f"Images of type {batch.dtype} go from {batch.min():g} to {batch.max():g}; expected 0 to 1, before any "
                "normalisation by mean and deviation, which is a part of the network."
            )
        return self._float_channels(batch.astype(np.float32))

    def _batch(self, array: NDArray[Any]) -> NDArray[Any]:
        """An array as (N, C, H, W), with channels first. Raises `DataError` for other shapes."""
        channels, height, width = self.input.shape
        found, shape = array, array.shape
        if found.ndim == GREY_AXES:
            found = found[None]
        if found.ndim == IMAGE_AXES:
            found = found[None]
        if found.ndim == BATCH_AXES and len(found):
            if found.shape[2:] == (height, width) and are_convertible(found.shape[1], channels):
                return found
            if found.shape[1:3] == (height, width) and are_convertible(found.shape[3], channels):
                first: NDArray[Any] = found.transpose(0, 3, 1, 2)
                return first
        how = self.input.preprocessing
        advice = f" Pass Pillow images or paths to have them resized ({how})." if how else ""
        raise DataError(
            f"An array of shape {shape} is no image for this network, which takes (N, {channels}, {height}, {width}), "
            f"or the same with the channels last, in grey or in colour.{advice}"
        )

    def _sized(self, picture: Image.Image) -> Image.Image:
        """A picture at the network's size: as in the run, or its centre square resized, as for a user's own images."""
        _, height, width = self.input.shape
        if (how := self.input.preprocessing) is not None:
            return how.apply(picture)
        if (picture.height, picture.width) == (height, width):
            return picture
        if height != width:
            raise BadImageError(
                f"is {picture.width}x{picture.height} pixels, expected {width}x{height}: the run resized no images"
            )
        side = min(picture.size)
        left, top = (picture.width - side) // 2, (picture.height - side) // 2
        square = picture.crop((left, top, left + side, top + side))
        return square.resize((width, height), Image.Resampling.BILINEAR)

    def _in_channels(self, images: NDArray[np.uint8]) -> Pixels:
        """uint8 images in the network's channels."""
        self._count(images)
        return in_channels(images, self.input.shape[0])

    def _float_channels(self, images: NDArray[np.float32]) -> Pixels:
        """The same for images in [0, 1]."""
        self._count(images)
        have, want = images.shape[1], self.input.shape[0]
        if have == want:
            return images
        if have < want:
            return np.repeat(images, want, axis=1)
        weights = np.array(WEIGHTS, dtype=np.float64) / sum(WEIGHTS)
        grey: NDArray[np.float64] = np.einsum("nchw,c->nhw", images.astype(np.float64), weights)
        return grey[:, None].astype(np.float32)

    def _count(self, images: NDArray[Any]) -> None:
        if images.shape[1] > self.input.shape[0]:
            self.converted += len(images)


def _is_array(value: Any) -> bool:
    """Whether a value is a NumPy array or a tensor."""
    return isinstance(value, np.ndarray) or type(value).__module__.partition(".")[0] == "torch"


def _is_picture(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "PIL"


def _as_numpy(value: Any) -> NDArray[Any]:
    """An array or tensor as an array; half-precision floats as float32."""
    array: NDArray[Any]
    if isinstance(value, np.ndarray):
        array = value
    else:
        tensor = value.detach().cpu()
        array = np.asarray(tensor.float() if tensor.dtype.is_floating_point else tensor)
    return array


def _as_floats(images: Pixels) -> Pixels:
    """uint8 images as floats in [0, 1], as the network gets them."""
    return images.astype(np.float32) / np.float32(255) if images.dtype == np.uint8 else images
