"""Crops of the sample photographs that scikit-learn and matplotlib ship."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from oodbench.benchmark import DataError, Dataset, ImageSet, dataset
from oodbench.datasets._pixels import package_file

SIDE = 32


class Photograph(NamedTuple):
    """A JPEG file in the wheel of a dependency."""

    distribution: str
    package: str
    name: str
    sha256: str


PHOTOGRAPHS = (
    Photograph(
        "scikit-learn",
        "sklearn",
        "datasets/images/china.jpg",
        "8378025ad2519d649d02e32bd98990db4ab572357d9f09841c2fbfbb4fefad29",
    ),
    Photograph(
        "scikit-learn",
        "sklearn",
        "datasets/images/flower.jpg",
        "a77f6ec41e353afdf8bdff2ea981b2955535d8d83294f8cfa49cf4e423dd5638",
    ),
    Photograph(
        "matplotlib",
        "matplotlib",
        "mpl-data/sample_data/grace_hopper.jpg",
        "a8ca6d734765703b09728ab47fe59f473d93ae3967fc24c7c0288c3c7adb7130",
    ),
)
"""All photographs in the wheels of the packages that oodbench requires; their other images are icons and plots.

The bytes are the same in the wheels of scikit-learn 1.4.0 and 1.9.1, and of matplotlib 3.8.0, 3.9.4 and 3.11.2.
"""


@dataset("patches", title="Crops of three photographs (scikit-learn, matplotlib)", display_name="Patches")
class Patches(Dataset):
    """808 non-overlapping colour crops."""

    splits = ("test",)
    channels = 3
    licence = (
        "china.jpg, flower.jpg: CC BY 2.0, as scikit-learn states. It names danielbuechele for both photographs; the "
        "page it links for flower.jpg is of another Flickr user, vultilion. grace_hopper.jpg: public domain, as the "
        "change that brought it into matplotlib states (a photograph by the US Navy)"
    )
    origin = (
        "sklearn.datasets.load_sample_image: china.jpg (www.flickr.com/photos/danielbuechele/6061409035) and "
        "flower.jpg (www.flickr.com/photos/vultilion/6056698931), 427 x 640 pixels, cut from the top left into 13 x 20 "
        "crops of 32 x 32 each; the last 11 rows of pixels are left out. matplotlib.cbook.get_sample_data: "
        "grace_hopper.jpg (commons.wikimedia.org/wiki/File:Grace_Hopper.jpg, as its JPEG comment says), 600 x 512 "
        "pixels, 18 x 16 crops; the last 24 rows are left out. Groups are photographs."
    )
    caveats = (
        "Three photographs: 808 crops are worth far fewer than 808 independent images, and their variation says little "
        "about other photographs. No other photograph is in the wheels of the packages that oodbench requires. Crops "
        "at other scales would only repeat the content, so there are none. Many crops are nearly uniform (sky, a "
        "blurred background, a dark coat). The pixels depend on the JPEG decoder that Pillow uses; the checksum is for "
        "libjpeg-turbo. Earlier versions had only the two photographs of scikit-learn, so that their numbers are not "
        "comparable with these."
    )
    checksums = {"test": "524fff4726b59f7c66143ea42aaf5dfe44184ac41814d8da850120e760384d03"}

    def missing(self, data_dir: Path) -> str | None:
        """Say which photograph the installed packages do not have. `data_dir` is not read."""
        try:
            for photograph in PHOTOGRAPHS:
                find(photograph)
        except DataError as error:
            return str(error)
        return None

    def load(self, split: str, data_dir: Path) -> ImageSet:
        """Return the test split. Raises `DataError` for the reasons that `missing` gives."""
        crops = [cut(np.asarray(Image.open(find(photograph)))) for photograph in PHOTOGRAPHS]
        groups = np.repeat(np.arange(len(crops)), [len(crop) for crop in crops])
        return ImageSet(np.concatenate(crops), groups=groups)


def find(photograph: Photograph) -> Path:
    """The path of a photograph. Raises `DataError` if it is not installed or its bytes are not those of the set."""
    path = package_file(photograph.package, photograph.name)
    if path is None:
        raise DataError(
            f"The photograph '{photograph.name}' is not in the installed {photograph.distribution}; some distributions "
            f"leave sample data out. Install {photograph.distribution} from PyPI."
        )
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != photograph.sha256:
        raise DataError(
            f"The photograph '{path}' is not the one that this set is made of: its SHA-256 is {found[:16]}..., "
            f"expected {photograph.sha256[:16]}.... Install {photograph.distribution} from PyPI."
        )
    return path


def cut(photograph: np.ndarray) -> np.ndarray:
    """Cut a photograph (H, W, 3) into squares, row by row: (N, 3, SIDE, SIDE). The remainder is dropped."""
    rows, columns = photograph.shape[0] // SIDE, photograph.shape[1] // SIDE
    squares = photograph[: rows * SIDE, : columns * SIDE].reshape(rows, SIDE, columns, SIDE, 3)
    crops: np.ndarray = squares.transpose(0, 2, 4, 1, 3).reshape(-1, 3, SIDE, SIDE)
    return crops
