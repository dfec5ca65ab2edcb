"""How one run reads pictures: what a network gets of them, and how many of them stay decoded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oodbench.benchmark.plugins.pictures import Preprocessing

PIXEL_CACHE = 2.0
"""Gigabytes (10^9 bytes) of a set's pixels up to which it stays decoded on the disk."""


@dataclass(frozen=True)
class PictureView:
    """The options of a run that decide how pictures are read, as plain data for every process."""

    preprocessing: Preprocessing | None = None
    """How every image becomes the networks' input; None for sets of one size, as they are, and pictures at 32 x 32."""
    exif: bool = False
    """Whether the rotation that EXIF data state is applied; torchvision, timm and OpenOOD do not apply it."""
    pixel_cache: float = PIXEL_CACHE
    """Gigabytes of pixels up to which a set stays decoded; larger ones are decoded each time. Results do not depend on
    it."""


DEFAULT_VIEW = PictureView()
