"""Reads and writes a bundle's file: safetensors, with one JSON document in the header's metadata.

    metadata["oodbench_bundle"]   JSON: `bundle_sha256`, `schema`, and everything that is no tensor
    weights.NAME                  the network's weights, by their names in its state dict
    state.N                       tensors of the detector's fitted state, in the order of the JSON's placeholders
    bank                          features of the training images that the detector compares with
    validation                    sorted scores of ID validation images

Any program that reads safetensors can read it. `bundle_sha256` is the SHA-256 of the whole file with 64 zeros in its
place, so that no byte can change unnoticed. Nothing in a bundle is code.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from oodbench.benchmark.errors import StoreError, UserError, first_line
from oodbench.benchmark.store import atomic
from oodbench.benchmark.store.safe_read import parse_json
from oodbench.benchmark.store.schema import versioned

ENTRY = "oodbench_bundle"
"""Key of the JSON document in the file's metadata."""

SCHEMA = 1
"""Version of the format; raise it when an older oodbench would misread newer files."""

MAX_HEADER = 100_000_000
"""Bytes of a safetensors header, as in the format's own implementation."""

BLANK = "0" * 64
MARK = b'{\\"bundle_sha256\\": \\"'
"""What comes before the digest in the file: the beginning of the JSON document, a string within the header's JSON."""


def write(path: Path, document: Mapping[str, Any], tensors: Mapping[str, Tensor], overwrite: bool = False) -> str:
    """Write a bundle atomically and return its SHA-256.

    Args:
        path: The file. Raises `UserError` if it exists, unless `overwrite` is set, and `StoreError` if it cannot be
            written.
        document: What is no tensor, as JSON values.
        tensors: Tensors by name; they are copied one at a time.
        overwrite: Whether an existing file is replaced.
    """
    refuse_existing(path, overwrite)
    text = json.dumps({"bundle_sha256": BLANK, "schema": SCHEMA, **document}, allow_nan=False)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        with atomic.temporary_beside(path) as temporary:
            save_file(plain, temporary, metadata={ENTRY: text})
            place = _place_of_digest(temporary)
            digest = _digest(temporary, place)
            with temporary.open("rb+") as file:
                file.seek(place)
                file.write(digest.encode())
            atomic.flush(temporary)
            atomic.rename(temporary, path)
    except OSError as error:
        raise StoreError(f"Cannot write '{path}': {error.strerror or error}. Choose another file.") from error
    return digest


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise `UserError` for a path that cannot become a new file, before any work."""
    if path.is_dir():
        raise UserError(f"'{path}' is a folder. Name the file to write, such as '{path / 'detector.safetensors'}'.")
    if path.exists() and not overwrite:
        raise UserError(f"'{path}' already exists. Choose another name, or add --overwrite to replace it.")


def read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read a bundle: its document and its tensors, which are read from the disk when they are used.

    Raises `UserError` if it is not a bundle, is damaged, or was written by a newer oodbench.
    """
    document = _document(path)
    place = _place_of_digest(path)
    if document["bundle_sha256"] != (found := _digest(path, place)):
        raise UserError(
            f"'{path}' is damaged: its SHA-256 is {found[:12]}, expected {str(document['bundle_sha256'])[:12]}. Copy "
            "it again, or export it again."
        )
    try:
        with safe_open(path, framework="pt") as file:
            return document, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except Exception as error:  # the kind depends on what is wrong with the header
        raise UserError(f"'{path}' cannot be read: {first_line(error)}. Copy it again, or export it again.") from error


def _document(path: Path) -> dict[str, Any]:
    """The JSON document of a bundle. Raises `UserError` if the file has none that can be read."""
    what = "Expected a file that 'bench export' wrote."
    try:
        header = _header(path)
    except OSError as error:
        raise UserError(f"Cannot read '{path}': {error.strerror or error}.") from error
    except ValueError as error:
        raise UserError(f"'{path}' is not a bundle: {error}. {what}") from error
    metadata = header.get("__metadata__")
    text = metadata.get(ENTRY) if isinstance(metadata, dict) else None
    if not isinstance(text, str):
        raise UserError(f"'{path}' is a safetensors file, but not a bundle. {what}")
    try:
        document = parse_json(text)
    except ValueError as error:
        raise UserError(f"'{path}' is damaged: {error}. Copy it again, or export it again.") from error
    unstated = "is damaged: it states no schema. Copy it again, or export it again."
    return versioned(document, SCHEMA, path, unstated=unstated)


def _header(path: Path) -> dict[str, Any]:
    """The header of a safetensors file. Raises `ValueError` if the file has none, or is shorter than it says."""
    with path.open("rb") as file:
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 0 < length <= MAX_HEADER:
            raise ValueError("it is not in safetensors format")
        content = file.read(length)
        if not content.startswith(b"{"):
            raise ValueError("it is not in safetensors format")
        if len(content) < length:
            raise ValueError("it is cut short")
        try:
            header = parse_json(content)
        except ValueError as error:
            raise ValueError(f"its header is damaged ({first_line(error)})") from error
        if not isinstance(header, dict):
            raise ValueError("it is not in safetensors format")
        ends = [
            entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__" and _is_entry(entry)
        ]
        if path.stat().st_size < 8 + length + max(ends, default=0):
            raise ValueError("it is cut short")
        return header


def _is_entry(entry: object) -> bool:
    offsets = entry.get("data_offsets") if isinstance(entry, dict) else None
    return isinstance(offsets, list) and len(offsets) == 2 and all(type(offset) is int for offset in offsets)


def _place_of_digest(path: Path) -> int:
    """Where the digest is in a bundle, in bytes from its beginning. Raises `UserError` if it is nowhere."""
    with path.open("rb") as file:
        length = struct.unpack("<Q", file.read(8))[0]
        found = file.read(min(length, MAX_HEADER)).find(MARK)
    if found < 0:
        raise UserError(f"'{path}' is damaged: it states no SHA-256. Copy it again, or export it again.")
    return 8 + found + len(MARK)


def _digest(path: Path, place: int) -> str:
    """SHA-256 of a bundle with zeros in the place of its digest."""
    hasher = hashlib.sha256()
    with path.open("rb") as file:
        hasher.update(file.read(place))
        file.read(len(BLANK))
        hasher.update(BLANK.encode())
        while block := file.read(1 << 20):
            hasher.update(block)
    return hasher.hexdigest()
