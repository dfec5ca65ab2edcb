"""Handwritten digits, from scikit-learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from oodbench.benchmark import Dataset, ImageSet, dataset
from oodbench.datasets._pixels import upsample_counts

TRAIN = 1297
FORMS = (0, 130, 256, 386, 516, 646, 776, 906, 1029, 1157, 1287, 1415, 1545, 1667)
"""Where each filled-in form begins: the labels repeat one list of 130 digits, from which a few are missing at times."""


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
        "to 32 x 32 and repeated in three channels. In stored order, which is form by form, the first 1,297 images are "
        "train and the last 500 are test."
    )
    caveats = (
        "Small and blurred: there is no detail finer than 8 x 8. The UCI training part, by 30 other writers, is not in "
        "scikit-learn, so this is not UCI's own split. Groups are filled-in forms, told apart by their repeating "
        "labels; 14 forms by 13 writers, so two are by one hand. The split cuts one form: its first ten images are in "
        "train, as a group of their own, and the other 118 are in test."
    )
    checksums = {
        "train": "a263a39fc99bffa886d32d24284f895c64e7a1677ba0e473f25d089594de968f",
        "test": "610e5efadb9d9352d2e48db2fd6694f13fd4ca6918c8de5bb9b865674162180f",
    }

    def load(self, split: str, data_dir: Path) -> ImageSet:
        """Return one split; scikit-learn holds the data, so `data_dir` is not read."""
        from sklearn.datasets import load_digits  # slow to import, and a card needs none of it

        stored = load_digits()
        rows = slice(0, TRAIN) if split == "train" else slice(TRAIN, None)
        # A boundary at the cut gives the two halves of the form that it divides different numbers.
        groups = np.searchsorted(sorted((*FORMS, TRAIN)), np.arange(len(stored.target)), side="right") - 1
        images = upsample_counts(stored.images[rows].astype(np.uint8))
        return ImageSet(images, stored.target[rows], self.classes, groups[rows])
