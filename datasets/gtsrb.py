"""GTSRB: German traffic signs."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from oodbench.benchmark import DataError, dataset
from oodbench.benchmark.data.files import (
    Decoded,
    File,
    FileDataset,
    Fit,
    Source,
    decode_members,
    in_range,
    open_tree,
    own_files,
)

CLASSES = tuple(f"{k:05d}" for k in range(43))
SQUEEZED = Fit()
URL = "https://sid.erda.dk/public/archives/daaeac0d7ce1152aea9b61d9f1e19370/"
FRAME = re.compile(r"GTSRB/Training/(\d{5})/(\d{5})_(\d{5})\.ppm")


def archive(name: str, md5: str) -> File:
    """One of the published zips, under its own name or where torchvision stores it."""
    return File((name, f"gtsrb/{name}"), (URL + name,), md5=md5)


@dataclass(frozen=True)
class GtsrbTraining:
    """GTSRB/Training/CLASS/TRACK_FRAME.ppm. A track is 30 frames of the same sign."""

    def read(self, paths: Sequence[Path]) -> Decoded:
        """Read the images sorted by path, with tracks as groups."""
        tree = open_tree(paths[0])
        found = {index: match for index, m in enumerate(tree.members) if (match := FRAME.fullmatch(m.name))}
        if not found:
            raise DataError(f"'{paths[0]}' holds no GTSRB/Training/00000/00000_00000.ppm: it is another archive.")
        order = sorted(found, key=lambda index: found[index][0])
        labels = np.array([int(found[index][1]) for index in order], dtype=np.int64)
        in_range(labels, len(CLASSES), paths[0])
        tracks = [found[index].group(1, 2) for index in order]
        number = {track: k for k, track in enumerate(dict.fromkeys(tracks))}
        images, bad, modes = decode_members(tree, order, SQUEEZED)
        return Decoded(images, labels, np.array([number[track] for track in tracks]), bad, modes)


@dataclass(frozen=True)
class GtsrbTest:
    """GTSRB/Final_Test/Images/NUMBER.ppm, and GT-final_test.csv in another zip, with columns Filename and ClassId."""

    def read(self, paths: Sequence[Path]) -> Decoded:
        """Read the images in the order of the list."""
        tree, listing = open_tree(paths[0]), open_tree(paths[1])
        tables = [k for k, member in enumerate(listing.members) if member.name.endswith("GT-final_test.csv")]
        if len(tables) != 1:
            raise DataError(f"'{paths[1]}' holds {len(tables)} files GT-final_test.csv, expected one.")
        text = next(iter(listing.read(tables)))[1].decode("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text), delimiter=";"))
        index = {member.name: k for k, member in enumerate(tree.members)}
        try:
            order = [index[f"GTSRB/Final_Test/Images/{row['Filename']}"] for row in rows]
            labels = np.array([int(row["ClassId"]) for row in rows], dtype=np.int64)
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(f"The list in '{paths[1]}' does not fit '{paths[0]}': {error}.") from error
        in_range(labels, len(CLASSES), paths[1])
        images, bad, modes = decode_members(tree, order, SQUEEZED)
        return Decoded(images, labels, None, bad, modes)


@dataset(
    "gtsrb",
    title="GTSRB: German traffic signs",
    paper="Stallkamp et al., Man vs. computer, Neural Networks 32, 2012",
    display_name="GTSRB",
    cite="stallkamp2012gtsrb",
)
class Gtsrb(FileDataset):
    """26,640 + 12,630 photographs of 43 kinds of traffic signs."""

    channels = 3
    classes = CLASSES
    sizes = {"train": 26_640, "test": 12_630}
    sources = {
        "train": (
            Source((archive("GTSRB-Training_fixed.zip", "513f3c79a4c5141765e10e952eaa2478"),), GtsrbTraining()),
            *own_files("gtsrb-train", CLASSES, SQUEEZED),
        ),
        "test": (
            Source(
                (
                    archive("GTSRB_Final_Test_Images.zip", "c7e4e6327067d32654124b0fe9e82185"),
                    archive("GTSRB_Final_Test_GT.zip", "fe31e9c9270bbcd7b84b7f21a9d9d9e5"),
                ),
                GtsrbTest(),
            ),
            *own_files("gtsrb-test", CLASSES, SQUEEZED),
        ),
    }
    licence = "No explicit licence found; research use with citation"
    origin = (
        "https://benchmark.ini.rub.de/, the three zips that torchvision downloads. Photographs of 15 to 250 pixels, "
        "nearly square; the whole image, including its margin, is resized to 32 x 32 (bilinear with antialiasing)."
    )
    caveats = (
        "Classes are imbalanced (up to 10 to 1). Groups are tracks of 30 frames of the same sign. The training archive "
        "is that of the online competition (26,640 images), not the later one (39,209). No original file was available "
        "when this was written; the reader was tested on synthetic files in its format."
    )
