"""Printed letters in the format of `digits`: `glyphs` with A to J, and `greek` with ten Greek letters."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import numpy as np

from oodbench.benchmark import Dataset, ImageSet, dataset
from oodbench.benchmark.errors import DataError
from oodbench.datasets._pixels import upsample_counts

FILE = Path(__file__).with_name("glyphs.npz")
SHA256 = "2ab33e4de04af37bb43dcda11cd978915657197de9db524e041f1d29cafd293d"
"""Checksum of the shipped file, as printed by _draw_glyphs.py."""

LICENCE = (
    "Drawn for oodbench, under its licence (MIT), from fonts shipped with matplotlib: DejaVu (Bitstream Vera licence, "
    "changes in the public domain), STIX (SIL Open Font License), Computer Modern as BaKoMa TrueType (BaKoMa licence). "
    "The fonts themselves are not included"
)
PIPELINE = (
    "Drawn by oodbench.datasets._draw_glyphs the way NIST's form reader prepared the digits of `digits`: letters are "
    "rotated by up to 12 degrees and slanted, stroke widths are chosen so that the amount of ink varies as in the "
    "digits, the bounding box of the ink is scaled to about 20 x 32 in a 32 x 32 bitmap, ink is counted in blocks of "
    "4 x 4, and the 8 x 8 counts are upsampled by the same function. "
)


@dataset("glyphs", title="Printed letters A to J, in the digits' format", display_name="Glyphs")
class Glyphs(Dataset):
    """Letters A to J. Train and test use different font families."""

    channels = 1
    classes = tuple("ABCDEFGHIJ")
    licence = LICENCE
    origin = PIPELINE + (
        "Train: 1,500 letters from 15 fonts of DejaVu Sans, Sans Mono, Serif and Computer Modern Roman. Test: 600 "
        "letters from 6 fonts of STIX, Computer Modern Sans and Computer Modern Typewriter. Groups are fonts."
    )
    caveats = (
        "Made for oodbench in the style of notMNIST, but much smaller and cleaner: numbers on it are not comparable to "
        "published ones. Print is more regular than handwriting. As an OOD set for `digits` it is not fully separable: "
        "at this resolution many an I is as close to a 1, and a G to a 6, as digits are to each other."
    )
    checksums = {
        "train": "f6afa42ced335027bf7336ef48e1a3b899e5fbecb2af36334f17c069e41e8ddb",
        "test": "048d2780c6d7f0942def0ff68269908e0f380555df300bf30f2286c7323c123a",
    }

    def load(self, split: str, data_dir: Path) -> ImageSet:
        """Return one split. The file is part of the package, so `data_dir` is not read."""
        return read(split, self.classes)


@dataset("greek", title="Printed Greek letters, in the digits' format", display_name="Greek")
class Greek(Dataset):
    """Ten Greek letters whose shapes do not occur in A to J."""

    splits = ("test",)
    channels = 1
    classes = ("Psi", "Omega", "lambda", "mu", "xi", "pi", "chi", "nu", "gamma", "zeta")
    licence = LICENCE
    origin = PIPELINE + (
        "600 letters from 5 fonts of STIX and Computer Modern Math Italic, families that the train split of `glyphs` "
        "does not use. Groups are fonts."
    )
    caveats = (
        "Made for oodbench: numbers on it are not comparable to published ones. At 8 x 8 some letters fill in: a heavy "
        "lambda resembles an A, a slanted gamma a 7. Three of the five fonts are italic."
    )
    checksums = {"test": "78e13b01880efceffe37ab8f44009515512d788d462067bf97830fed08683002"}

    def load(self, split: str, data_dir: Path) -> ImageSet:
        """Return the test split. The file is part of the package, so `data_dir` is not read."""
        return read("greek", self.classes)


def read(part: str, classes: tuple[str, ...], file: Path = FILE) -> ImageSet:
    """Return the letters of a part ('train', 'test' or 'greek'), upsampled. Raises `DataError` for a damaged file."""
    try:
        content = file.read_bytes()
    except OSError as error:
        raise DataError(f"The letters' file '{file}' cannot be read ({error}). Reinstall oodbench.") from error
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        raise DataError(
            f"The letters' file '{file}' is damaged: its SHA-256 is {found[:16]}..., expected {SHA256[:16]}.... "
            "Reinstall oodbench."
        )
    with np.load(io.BytesIO(content), allow_pickle=False) as stored:
        counts, labels, fonts = (stored[f"{part}_{column}"] for column in ("counts", "labels", "fonts"))
    return ImageSet(upsample_counts(counts), labels.astype(np.int64), classes, fonts.astype(np.int64))
