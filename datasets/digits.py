"""Handwritten digits of UCI's optical recognition data set, from scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from oodbench.benchmark import Dataset, ImageSet, dataset
from oodbench.datasets._pixels import sklearn_file, upsample_counts

FORMS = (0, 130, 256, 386, 516, 646, 776, 906, 1029, 1157, 1287, 1415, 1545, 1667)
"""Index of the first image of each filled-in form. Every form has the same list of 130 digits, with a few missing."""
TRAIN = FORMS[10]
"""Number of training images: the first ten forms. The last four are test, so no form is split."""


@dataset(
    "digits",
    title="Handwritten digits (UCI, scikit-learn)",
    paper="Alpaydin and Kaynak, Cascading Classifiers, Kybernetika 34(4), 1998",
    display_name="Digits",
    cite="alpaydin1998cascading",
)
class Digits(Dataset):
    """1,797 handwritten digits as 8 x 8 ink counts, upsampled."""

    channels = 1
    classes = tuple("0123456789")
    licence = "CC BY 4.0 (UCI Machine Learning Repository); the copy used is part of scikit-learn"
    origin = (
        "sklearn.datasets.load_digits: the test part of the UCI set Optical Recognition of Handwritten Digits, by 13 "
        "writers. Each 8 x 8 image of ink counts (0..16 ink pixels per 4 x 4 block of a 32 x 32 bitmap) is upsampled "
        "bilinearly to 32 x 32, in one channel. In stored order, which is form by form, the first 1,287 images (ten "
        "forms) are train and the last 510 (four forms) are test."
    )
    caveats = (
        "Small and blurred: there is no detail finer than 8 x 8. The UCI training part, by 30 other writers, is not in "
        "scikit-learn, so this is not UCI's own split. Groups are filled-in forms, identified by their repeating "
        "labels. There are 14 forms by 13 writers, so one writer filled in two, and it is not known which two: train "
        "and test may share that writer."
    )
    checksums = {
        "train": "ead97d570fb743ff04e1d6c23dae8500e95f59ff5088ab4bd430d87d7ed252aa",
        "test": "1c53f86a30611a2937cc8286fd77a40c6aa19be3f5d63ed46732b592e12f8717",
    }

    def load(self, split: str, data_dir: Path) -> ImageSet:
        """Return one split. The data is part of scikit-learn, so `data_dir` is not read."""
        stored = np.loadtxt(sklearn_file("data/digits.csv.gz"), delimiter=",", dtype=np.int64)
        counts, labels = stored[:, :-1].reshape(-1, 8, 8).astype(np.uint8), stored[:, -1]
        groups = np.searchsorted(FORMS, np.arange(len(labels)), side="right") - 1
        rows = slice(0, TRAIN) if split == "train" else slice(TRAIN, None)
        return ImageSet(upsample_counts(counts[rows]), labels[rows], self.classes, groups[rows])
