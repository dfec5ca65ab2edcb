"""Decides how the run's networks get pictures: resize, crop and interpolation, mean and standard deviation.

Options come before the suite, and the suite before the backbone. What a backbone says applies if its weights are
pretrained, whose accuracy depends on it, or if an ID set of the run consists of pictures of their own sizes. Otherwise
sets of one size reach networks as they are, and pictures at 32 x 32.
"""

from __future__ import annotations

import re
from typing import Any

from oodbench.benchmark.data.own_sets import is_own
from oodbench.benchmark.data.pictures.view import PIXEL_CACHE, PictureView
from oodbench.benchmark.errors import DataError, UserError
from oodbench.benchmark.plan.plan import ALL, Request
from oodbench.benchmark.plan.suite import Suite
from oodbench.benchmark.plugins.backbone import Backbone
from oodbench.benchmark.plugins.guarded import asked
from oodbench.benchmark.plugins.networks.places import adopt_backbone
from oodbench.benchmark.plugins.pictures import Preprocessing
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.plugins.source_version import identity
from oodbench.benchmark.plugins.specs import Spec, create, parse_set

SIZE = re.compile(r"(\d{1,5})(?:\s*x\s*(\d{1,5}))?")

NORMALISATION = "normalisation"
"""The setting of backbones that normalise pixels: a name, or three means and three deviations, as
'0.5 0.5 0.5/0.5 0.5 0.5'."""

CHANNELS = 3


def picture_view(request: Request, suite: Suite, pixel_cache: float = PIXEL_CACHE) -> PictureView:
    """How one run reads pictures. Raises `UserError` for sizes that are none, or that leave pictures of many sizes."""
    return PictureView(preprocessing(request, suite), request.exif, pixel_cache)


def preprocessing(request: Request, suite: Suite) -> Preprocessing | None:
    """How every image of a run becomes the networks' input; None for sets of one size as they are."""
    given = {name: getattr(request, name) or getattr(suite, name) for name in ("resize", "crop", "interpolation")}
    backbone = run_backbone(request, suite)
    own = asked(backbone, "preprocessing") if _applies(backbone, request, suite) or any(given.values()) else None
    if not any(given.values()):
        return own
    resize = _resize(given["resize"]) if given["resize"] else (own.resize if own else None)
    crop = _crop(given["crop"]) if given["crop"] else None
    if crop is None and own is not None and not isinstance(resize, tuple):
        crop = own.crop
    if crop is None and isinstance(resize, int):
        crop = (resize, resize)
    try:
        return Preprocessing(resize, crop, given["interpolation"] or (own.interpolation if own else "bilinear"))
    except DataError as error:
        raise UserError(str(error)) from error


def run_backbone(request: Request, suite: Suite) -> Backbone:
    """The run's backbone, with the mean and standard deviation that were asked for."""
    spec = adopt_backbone(request.backbone or suite.backbone)
    if bool(request.mean) != bool(request.std):
        raise UserError("--mean and --std belong together: give both, such as --mean 0.5,0.5,0.5 --std 0.5,0.5,0.5.")
    if request.mean:
        if NORMALISATION not in create("backbone", spec).settings:
            raise UserError(
                f"Backbone '{spec.name}' does not normalise pixels, so --mean and --std do not apply to it. Leave them "
                "out."
            )
        text = f"{_numbers('mean', request.mean)}/{_numbers('std', request.std)}"
        others = tuple(pair for pair in spec.settings if pair[0] != NORMALISATION)
        spec = Spec(spec.name, (*others, (NORMALISATION, text)))
    backbone: Backbone = create("backbone", spec)
    return backbone


def backbone_identity(backbone: Backbone) -> dict[str, Any]:
    """The part of a key that identifies a backbone; with mean and deviation, which may come with another package."""
    statistics = backbone.statistics
    return {**identity(backbone), **({"statistics": statistics} if statistics else {})}


def described(view: PictureView, backbone: Backbone) -> str:
    """What networks do with a picture, for records and the note under tables; empty without a preprocessing."""
    if view.preprocessing is None:
        return ""
    statistics = backbone.statistics
    return f"{view.preprocessing}{f'; mean and deviation {statistics}' if statistics else ''}"


def _applies(backbone: Backbone, request: Request, suite: Suite) -> bool:
    """Whether what the backbone says of pictures applies, although nothing was asked for."""
    if backbone.is_pretrained:
        return True
    names = [name for id_set in request.id_sets for name in (_of_suite(suite) if id_set == ALL else [id_set])]
    return any(_is_native(name) for name in names)


def _of_suite(suite: Suite) -> list[str]:
    return [str(entry.set) for entry in suite.entries]


def _is_native(name: str) -> bool:
    """Whether a set consists of pictures of their own sizes. Unknown names are reported where sets are resolved."""
    if is_own(name):
        return True
    entry = registry.entries("dataset").get(parse_set(name).name)
    return entry is not None and not entry.reason() and bool(entry.load().native)


def _resize(text: str | int) -> int | tuple[int, int]:
    """'256' -> 256, the shorter side; '224x224' -> (224, 224), both."""
    height, width = _size("resize", text)
    return height if width is None else (height, width)


def _crop(text: str | int) -> tuple[int, int]:
    """'224' and '224x224' -> (224, 224)."""
    height, width = _size("crop", text)
    return height, height if width is None else width


def _size(option: str, text: str | int) -> tuple[int, int | None]:
    found = SIZE.fullmatch(str(text).strip().lower())
    if found is None:
        raise UserError(f"--{option} {text} is no size; write 224 or 224x224 (height x width), in pixels.")
    return int(found[1]), int(found[2]) if found[2] else None


def _numbers(option: str, text: str) -> str:
    """'0.5,0.5,0.5' -> '0.5 0.5 0.5'; one number stands for all channels."""
    try:
        values = [float(value) for value in text.split(",")]
    except ValueError:
        values = []
    values = values * CHANNELS if len(values) == 1 else values
    valid = len(values) == CHANNELS and all(0 <= value < float("inf") for value in values)
    if not valid or (option == "std" and 0 in values):
        raise UserError(
            f"--{option} {text} must be one number, or three with commas, for pixels in [0, 1], "
            "such as 0.485,0.456,0.406."
        )
    return " ".join(f"{value:g}" for value in values)
