"""Crops of the two sample photographs of scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from oodbench.benchmark import Dataset, ImageSet, dataset
from oodbench.datasets._pixels import sklearn_file

PHOTOGRAPHS = ("china.jpg", "flower.jpg")
SIDE = 32


@dataset("patches", title="Crops of two photographs (scikit-learn)")
class Patches(Dataset):
    """520 non-overlapping colour crops."""

    splits = ("test",)
    licence = (
        "CC BY 2.0, as scikit-learn states. It names danielbuechele for both photographs; the page it links for "
        "flower.jpg is of another Flickr user, vultilion"
    )
    origin = (
        "sklearn.datasets.load_sample_image: china.jpg (www.flickr.com/photos/danielbuechele/6061409035) and "
        "flower.jpg (www.flickr.com/photos/vultilion/6056698931), 427 x 640 pixels, cut from the top left into 13 x 20 "
        "crops of 32 x 32 each; the last 11 rows of pixels are left out. Groups are photographs."
    )
    caveats = (
        "Two photographs: 520 crops are worth far fewer than 520 independent images, and their variation says little "
        "about other photographs. Crops at other scales would only repeat the content, so there are none. Many crops "
        "are nearly uniform (sky, a blurred background). The pixels depend on the JPEG decoder that Pillow uses; the "
        "checksum is for libjpeg-turbo."
    )
    checksums = {"test": "6d0b817ee85b02ebe30b3cea95695f4faa061f3841d5e0ff4e3a45980ec4a812"}

    def load(self, split: str, data_dir: Path) -> ImageSet:
        """Return the test split. The photographs are part of scikit-learn, so `data_dir` is not read."""
        crops = [cut(np.asarray(Image.open(sklearn_file(f"images/{name}")))) for name in PHOTOGRAPHS]
        groups = np.repeat(np.arange(len(crops)), [len(crop) for crop in crops])
        return ImageSet(np.concatenate(crops), groups=groups)


def cut(photograph: np.ndarray) -> np.ndarray:
    """Cut a photograph (H, W, 3) into squares, row by row: (N, 3, SIDE, SIDE). The remainder is dropped."""
    rows, columns = photograph.shape[0] // SIDE, photograph.shape[1] // SIDE
    squares = photograph[: rows * SIDE, : columns * SIDE].reshape(rows, SIDE, columns, SIDE, 3)
    crops: np.ndarray = squares.transpose(0, 2, 4, 1, 3).reshape(-1, 3, SIDE, SIDE)
    return crops
