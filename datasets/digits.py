"""Handwritten digits, from scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from oodbench.benchmark import Dataset, ImageSet, dataset
from oodbench.datasets._pixels import sklearn_file, upsample_counts

FORMS = (0, 130, 256, 386, 516, 646, 776, 906, 1029, 1157, 1287, 1415, 1545, 1667)
"""Where each filled-in form begins: the labels repeat one list of 130 digits, from which a few are missing at times."""
TRAIN = FORMS[10]
"""The first ten forms train, the last four test: no form is cut."""


@dataset(
    "digits",
    title="Handwritten digits (UCI, scikit-learn)",
    paper="Alpaydin and Kaynak, Cascading Classifiers, Kybernetika 34(4), 1998",
)
class Digits(Dataset):
    """1,797 handwritten digits as 8 x 8 ink counts, upsampled."""

    classes = tuple("0123456789")
    licence = "CC BY 4.0 (UCI Machine Learning Repository); the copy used is part of scikit-learn"
    origin = (
        "sklearn.datasets.load_digits: the test part of the UCI set Optical Recognition of Handwritten Digits, by 13 "
        "writers. Each 8 x 8 count (0..16 ink pixels in a block of 4 x 4 of a 32 x 32 bitmap) is upsampled bilinearly "
        "to 32 x 32 and repeated in three channels. In stored order, which is form by form, the first 1,287 images "
        "(ten forms) are train and the last 510 (four forms) are test."
    )
    caveats = (
        "Small and blurred: there is no detail finer than 8 x 8. The UCI training part, by 30 other writers, is not in "
        "scikit-learn, so this is not UCI's own split. Groups are filled-in forms, told apart by their repeating "
        "labels; 14 forms by 13 writers, so two are by one hand, and which two is not known: train and test may "
        "share it."
    )
    checksums = {
        "train": "3012ec93ed751d6a05423c1507db644bd8c5def6275486329b5de77a6f4e0c0c",
        "test": "02eba94d406253448108643dc630c98ff000accc5c8bc033bf6a02d283ca05e2",
    }

    def load(self, split: str, data_dir: Path) -> ImageSet:
        """Return one split; scikit-learn holds the data, so `data_dir` is not read."""
        stored = np.loadtxt(sklearn_file("data/digits.csv.gz"), delimiter=",", dtype=np.int64)
        counts, labels = stored[:, :-1].reshape(-1, 8, 8).astype(np.uint8), stored[:, -1]
        groups = np.searchsorted(FORMS, np.arange(len(labels)), side="right") - 1
        rows = slice(0, TRAIN) if split == "train" else slice(TRAIN, None)
        return ImageSet(upsample_counts(counts[rows]), labels[rows], self.classes, groups[rows])
