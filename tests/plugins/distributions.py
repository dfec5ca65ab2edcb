"""A plug-in's source, to be written to files and distributions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

Install = Callable[..., None]
"""(project name, entry points by group, modules by file name): installs a distribution for this process."""

DETECTOR = """
from oodbench.benchmark import Detector, detector

@detector({name!r}, title="Of another package")
class Other(Detector):
    def score(self, batch):
        return -batch.logits[:, 0]
"""


def file_with(folder: Path, text: str, name: str = "mine.py") -> Path:
    path = folder / name
    path.write_text(text)
    return path
