"""How the networks of a finished run got pictures, so that other commands read the same images."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oodbench.benchmark.data.pictures.view import DEFAULT_VIEW, PictureView
from oodbench.benchmark.errors import DataError
from oodbench.benchmark.plugins.pictures import Preprocessing
from oodbench.benchmark.store.safe_read import read_json

TEXT = re.compile(
    r"(?:squeezed to (?P<height>\d+)x(?P<width>\d+) (?P<filter>\w+)|shorter side (?P<side>\d+) (?P<kind>\w+))?"
    r"(?:(?:^|, )centre (?P<down>\d+)x(?P<across>\d+))?"
)
"""What `str` of a `Preprocessing` gives."""


def view_in(run_dir: Path) -> PictureView:
    """The view of the run in a folder; the default one if its `run.json` cannot be read, which others report."""
    try:
        info = read_json(run_dir / "run.json")
    except (OSError, ValueError):
        return DEFAULT_VIEW
    return view_of_run(info) if isinstance(info, Mapping) else DEFAULT_VIEW


def view_of_run(info: Mapping[str, Any]) -> PictureView:
    """The view of a run's last command, from the content of `run.json`; the default one if that does not say."""
    asked = info.get("asked")
    exif = isinstance(asked, Mapping) and asked.get("exif") is True
    return PictureView(parse_preprocessing(str(info.get("preprocessing") or "")), exif)


def parse_preprocessing(text: str) -> Preprocessing | None:
    """The preprocessing that `str` gave a text of, whatever networks normalise by, which is theirs; None for another
    text."""
    text = text.partition("; ")[0]
    found = TEXT.fullmatch(text)
    if not text or found is None:
        return None
    part = found.groupdict()
    resize: int | tuple[int, int] | None = int(part["side"]) if part["side"] else None
    if part["height"]:
        resize = int(part["height"]), int(part["width"])
    crop = (int(part["down"]), int(part["across"])) if part["down"] else None
    try:
        return Preprocessing(resize, crop, part["filter"] or part["kind"] or Preprocessing.interpolation)
    except DataError:
        return None
