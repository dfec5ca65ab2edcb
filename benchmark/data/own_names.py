"""Names of the user's own sets in tables: the folder's or list's, with folders around it where another set has that."""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Callable
from pathlib import Path

HASH = 8
"""Hexadecimal digits of a hash in a name."""


def readable(text: str, empty: str = "images") -> str:
    """A text with '-' for what a name of a data set cannot hold.

    Texts in other scripts end in a hash, because little or nothing else is left of them, or `empty` alone.
    """
    text = unicodedata.normalize("NFC", text)
    plain = re.sub(r"[^A-Za-z0-9_.-]+", "-", text).strip("-.")
    return plain if plain and text.isascii() else f"{plain or empty}-{_hash(text)}"


def free_name(path: Path, name: str, is_taken: Callable[[str], bool]) -> str:
    """The first of NAME, PARENT/NAME, GRANDPARENT/PARENT/NAME, ... that no other path has.

    Args:
        path: The folder or file.
        name: What it is called where no other path is.
        is_taken: Whether a name is that of another path.
    """
    found = name
    for parent in (*path.parents, None):
        if not is_taken(found):
            return found
        if parent is not None and parent.name:
            found = f"{readable(parent.name, 'folder')}/{found}"
    return f"{found}-{_hash(str(path))}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:HASH]
