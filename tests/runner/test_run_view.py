"""Other commands read a run's pictures at the size that its networks got."""

from __future__ import annotations

from pathlib import Path

import pytest

from oodbench.benchmark.data.pictures.view import DEFAULT_VIEW, PictureView
from oodbench.benchmark.plugins.pictures import Preprocessing
from oodbench.benchmark.runner.run_view import parse_preprocessing, view_in, view_of_run


@pytest.mark.parametrize(
    "preprocessing",
    [
        Preprocessing(256, (224, 224)),
        Preprocessing(256, (224, 192), "bicubic"),
        Preprocessing((224, 200), None, "lanczos"),
        Preprocessing((240, 240), (224, 224), "box"),
        Preprocessing(None, (32, 32)),
    ],
)
def test_a_preprocessing_is_read_from_its_text(preprocessing: Preprocessing) -> None:
    assert parse_preprocessing(str(preprocessing)) == preprocessing
    assert parse_preprocessing(f"{preprocessing}; mean and deviation 0.5 0.5 0.5/0.5 0.5 0.5") == preprocessing
    assert view_of_run({"preprocessing": str(preprocessing), "asked": {"exif": True}}) == PictureView(
        preprocessing, True
    )


@pytest.mark.parametrize(
    "text", ["", "shorter side 256 bilinear", "as it is", "shorter side 256 magic, centre 8x8", "centre 0x0"]
)
def test_other_texts_are_none(text: str) -> None:
    assert parse_preprocessing(text) is None


def test_a_run_that_does_not_say_has_the_default_view(tmp_path: Path) -> None:
    assert view_of_run({}) == DEFAULT_VIEW
    assert view_in(tmp_path) == DEFAULT_VIEW
    (tmp_path / "run.json").write_text("[]")
    assert view_in(tmp_path) == DEFAULT_VIEW
