"""Draws the letters of `glyphs` and `greek`: python -m oodbench.datasets._draw_glyphs OUT.npz

The letters are processed like the handwritten digits of `digits`, so that the sets differ in content, not in
processing. NIST's form reader (NISTIR 5469) scaled each digit's bounding box to 20 x 32 pixels in the middle of a
32 x 32 bitmap, thickened or thinned the strokes towards a typical amount of ink, straightened the digit, and counted
the ink in blocks of 4 x 4. Here the ink comes from text fonts shipped with matplotlib, slightly rotated and slanted,
because handwriting is not perfectly straight even after that processing.

The output is reproducible with the same versions of matplotlib's fonts, FreeType, Pillow and SciPy. The shipped file is
authoritative: `glyphs.py` contains its SHA-256, which this script prints.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

LATIN = "ABCDEFGHIJ"
GREEK = "ΨΩλμξπχνγζ"
GREEK_IN_CMMI = "\xaa\xad\xb8\xb9\xbb\xbc\xc2\xba\xb0\xb3"
"""Code points of the letters of GREEK in cmmi10, which uses its own encoding."""

TRAIN_FONTS = (
    *("DejaVuSans", "DejaVuSans-Oblique", "DejaVuSans-Bold", "DejaVuSans-BoldOblique"),
    *("DejaVuSansMono", "DejaVuSansMono-Oblique", "DejaVuSansMono-Bold", "DejaVuSansMono-BoldOblique"),
    *("DejaVuSerif", "DejaVuSerif-Italic", "DejaVuSerif-Bold", "DejaVuSerif-BoldItalic"),
    *("cmr10", "cmti10", "cmb10"),
)
STIX = ("STIXGeneral", "STIXGeneralItalic", "STIXGeneralBol", "STIXGeneralBolIta")
SPLITS = {
    "train": (TRAIN_FONTS, LATIN, 10),
    "test": ((*STIX, "cmss10", "cmtt10"), LATIN, 10),
    "greek": ((*STIX, "cmmi10"), GREEK, 12),
}
"""Font files, letters, and images per letter and font. The font families of `train` are used in no other split."""

SIZE = 160
"""Font size in pixels, several times the bitmap's 32, so that edges are placed with subpixel accuracy."""


def draw(font: ImageFont.FreeTypeFont, letter: str, rng: np.random.RandomState) -> np.ndarray:
    """Return the 8 x 8 ink counts of one letter, slightly rotated and slanted, with about as much ink as a digit."""
    page = Image.new("L", (3 * SIZE, 3 * SIZE))
    ImageDraw.Draw(page).text((1.5 * SIZE, 1.5 * SIZE), letter, fill=255, font=font, anchor="mm")
    turn, slant = np.deg2rad(rng.uniform(-12, 12)), rng.uniform(-0.25, 0.25)
    matrix = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]]) @ [[1, slant], [0, 1]]
    shift = (np.eye(2) - matrix) @ [1.5 * SIZE, 1.5 * SIZE]
    coefficients = np.c_[matrix, shift].ravel().tolist()
    page = page.transform(page.size, Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)
    margin = round(0.13 * SIZE)  # room for the thickest stroke
    x0, y0, x1, y1 = page.getbbox() or (0, 0, *page.size)
    ink = np.asarray(page)[y0 - margin : y1 + margin, x0 - margin : x1 + margin] > 127

    # The target amount of ink is sampled with the mean and standard deviation of the 1,797 digits.
    wanted = np.clip(rng.normal(313, 36), 240, 400)
    width, left = rng.uniform(18, 22), rng.uniform(-1.5, 1.5)
    distance = ndimage.distance_transform_edt(~ink) - ndimage.distance_transform_edt(ink)
    thin, thick = -0.02 * SIZE, 0.12 * SIZE  # change of half the stroke width; thinner hairlines would break
    for _ in range(8):
        stroke = (thin + thick) / 2
        bitmap = frame(distance < stroke, width, left)
        thin, thick = (stroke, thick) if bitmap.sum() < wanted else (thin, stroke)
    counts: np.ndarray = bitmap.reshape(8, 4, 8, 4).sum(axis=(1, 3)).astype(np.uint8)
    return counts


def frame(ink: np.ndarray, width: float, left: float) -> np.ndarray:
    """Return a 32 x 32 bitmap in which the ink's bounding box fills the middle `width` columns, or fewer if narrow."""
    rows, columns = np.flatnonzero(ink.any(axis=1)), np.flatnonzero(ink.any(axis=0))
    box = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    # A bar such as a sans-serif I is widened to at most twice its proportions; otherwise it would be all ink.
    wide = round(min(width, 2 * 32 * box.shape[1] / box.shape[0]))
    scaled = Image.fromarray(box.astype(np.uint8) * 255).resize((wide, 32), Image.Resampling.BOX)
    bitmap = np.zeros((32, 32), bool)
    start = round(16 + left - wide / 2)
    bitmap[:, start : start + wide] = np.asarray(scaled) > 127
    return bitmap


def main(out: Path) -> None:
    """Draw all splits and write counts, labels and font indices."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    rng = np.random.RandomState(0)
    seen: set[bytes] = set()
    names = list(dict.fromkeys(name for fonts, _, _ in SPLITS.values() for name in fonts))
    arrays: dict[str, Any] = {"fonts": np.array(names)}
    for split, (fonts, letters, repeats) in SPLITS.items():
        counts, labels, numbers = [], [], []
        for name in fonts:
            # The default layout engine drops cmmi10's Omega, whose code point is the soft hyphen in other encodings.
            font = ImageFont.truetype(str(folder / f"{name}.ttf"), SIZE, layout_engine=ImageFont.Layout.BASIC)
            for label in list(range(len(letters))) * repeats:
                letter = (GREEK_IN_CMMI if name == "cmmi10" else letters)[label]
                while (picture := draw(font, letter, rng)).tobytes() in seen:
                    pass
                seen.add(picture.tobytes())
                counts.append(picture)
                labels.append(label)
                numbers.append(names.index(name))
        arrays[f"{split}_counts"] = np.stack(counts)
        arrays[f"{split}_labels"] = np.array(labels, np.uint8)
        arrays[f"{split}_fonts"] = np.array(numbers, np.uint8)
    with out.open("wb") as file:
        np.savez(file, **arrays)  # uncompressed, because compressed bytes depend on the zlib version
    print(hashlib.sha256(out.read_bytes()).hexdigest())


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit((__doc__ or "").splitlines()[0])
    main(Path(sys.argv[1]))
