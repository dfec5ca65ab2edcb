"""What `bundle.json` says: the schema, the versions that made a bundle, its members, and what it leaves out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from oodbench.benchmark.errors import UserError
from oodbench.benchmark.store.safe_read import parse_json
from oodbench.benchmark.store.schema import Count, convert
from oodbench.benchmark.verify.bundles.container import MANIFEST, Container

SCHEMA = 1
"""Version of the file format, increased when an older oodbench would misread newer files."""

FORMAT = "oodbench run bundle"

LEFT_OUT = (
    "paths of files and folders, but for the names of files",
    "the URL of a shared store, and how and where jobs were run",
    "dates, seconds and memory, which differ between equal runs",
    "images, logits and features",
    "labels of images and AUROC by class, which follows from them",
)
"""What no bundle has."""


@dataclass(frozen=True)
class SetOfImages:
    """Images that cells were scored on: what identifies them, and which of them belong together."""

    checksum: str
    part: str
    images: Count
    groups: str = ""
    """Checksum of the groups of dependent images; empty if every image is its own."""
    file: str = ""
    """The member with the groups, int64 (N,); empty without groups."""


@dataclass(frozen=True)
class Classification:
    """How a classifier did on labelled images: enough for the accuracy and for what is computed from it."""

    checksum: str
    """Of the images."""
    file: str
    """The member: uint8 (N,), 1 for images that are classified correctly; or float64 (3, N): that, the largest
    probability of each image, and minus the logarithm of its label's."""


@dataclass(frozen=True)
class Contents:
    """`bundle.json`."""

    schema: int
    format: str
    name: str
    """The run's name, which a board shows."""
    made_by: Mapping[str, Any]
    """Version of oodbench, and its commit if it was a checkout."""
    versions: Mapping[str, str]
    """Versions of the metrics and of the intervals."""
    members: Mapping[str, str]
    """Name of every other member -> its SHA-256."""
    artifacts: Mapping[str, str] = field(default_factory=dict)
    """Path of an artifact in a store -> the member with its bytes."""
    images: Sequence[SetOfImages] = ()
    classified: Mapping[str, Classification] = field(default_factory=dict)
    """Digest of the key of logits -> how these classify."""
    left_out: Sequence[str] = LEFT_OUT


def read_contents(container: Container) -> tuple[Contents, str]:
    """The manifest of a bundle, and its SHA-256, which stands for everything in it.

    Raises `UserError` if it is of a newer oodbench, is invalid, or lists other members than there are.
    """
    content = container.read(MANIFEST)
    try:
        value = parse_json(content)
    except ValueError as error:
        raise container.refused(f"{MANIFEST} cannot be read as JSON ({error})") from error
    if not isinstance(value, dict) or type(value.get("schema")) is not int or value.get("format") != FORMAT:
        raise container.refused(f"{MANIFEST} does not say that it is an {FORMAT}")
    if value["schema"] > SCHEMA:
        raise UserError(
            f"'{container.path.name}' has schema {value['schema']}, newer than {SCHEMA}, the newest that this "
            "oodbench reads. Upgrade oodbench."
        )
    try:
        contents = convert(value, Contents)
    except ValueError as error:
        raise container.refused(f"in {MANIFEST}, {error}") from error
    if unlisted := sorted({*container.members} - {MANIFEST, *contents.members}):
        raise container.refused(f"{MANIFEST} does not list its member '{unlisted[0]}'")
    if absent := sorted({*contents.members} - {*container.members}):
        raise container.refused(f"it lacks '{absent[0]}', which {MANIFEST} lists")
    used = [*contents.artifacts.values(), *(one.file for one in contents.images if one.file)]
    used += [one.file for one in contents.classified.values()]
    if unknown := sorted({*used} - {*contents.members}):
        raise container.refused(f"it lacks '{unknown[0][:80]}', which {MANIFEST} refers to")
    return contents, hashlib.sha256(content).hexdigest()
