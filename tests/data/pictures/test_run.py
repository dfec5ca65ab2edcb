"""A run over pictures at their own size: one command, the same bytes on every engine, nothing lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.data.pictures.pictures import encoded, photo, varied
from tests.data.trees import as_folder, as_zip
from tests.support import TINY_BACKBONE, bench


@pytest.mark.slow
def test_a_run_over_pictures_has_the_same_bytes_on_every_engine(tmp_path: Path) -> None:
    photos = {f"{k:02d}.jpg": encoded(photo(60 + k, 50, k), "JPEG") for k in range(20)}
    ood = f"folder:{as_folder(tmp_path / 'varied', varied())},folder:{as_zip(tmp_path / 'photos.zip', photos)}"
    tables = []
    for jobs in (1, 2):
        results = tmp_path / str(jobs)
        options = ["--id", "digits", "--ood", ood, "--detectors", "msp,mahalanobis,odin", "--backbone", TINY_BACKBONE]
        sizes = ["--resize", "40", "--crop", "36", "--epochs", "1", "--jobs", str(jobs), "--results", str(results)]
        done = bench("run", *options, *sizes)
        assert done.exit_code == 0, done.output
        table = bench("table", "digits", "--results", str(results)).output
        text = " ".join(table.split())  # notes are broken where the width of the terminal asks for it
        assert "Networks get every picture so: shorter side 40 bilinear, centre 36x36." in text
        assert "an EXIF rotation is not applied, as in torchvision, timm and OpenOOD: 1 of 9 images" in text
        tables.append((results / "runs" / "digits" / "table.csv").read_bytes())
        assert len(list((results / "cache" / "data").glob("*.thumbnails.npy"))) == 2
    assert tables[0] == tables[1]
