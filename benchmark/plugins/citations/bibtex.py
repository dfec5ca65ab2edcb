r"""Entries of BibTeX: split, checked, found by key, and made from plain text.

Entries may come from files of others, so that only what cannot leave its field is passed on: balanced braces, and the
commands of LaTeX that write letters and accents.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from oodbench.benchmark.errors import UserError, visible

NAME = "references.bib"
"""The file beside plug-ins that their `cite` refers to."""

KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:+/-]{0,79}")
"""Keys that BibTeX, `\\cite` and biber all accept."""

_START = re.compile(r"@\s*(?P<type>[A-Za-z]+)\s*\{\s*(?P<key>[^\s,{}\"#%'()=~\\]+)\s*,")

_COMMANDS = {
    *"'`\"^~=.&%$#_-{} /,;@",
    *("aa", "AA", "ae", "AE", "b", "c", "d", "emph", "H", "i", "j", "k", "l", "L", "o", "O", "oe", "OE", "r", "ss"),
    *("t", "textbf", "textit", "textsc", "textendash", "u", "v", "url", "textbraceleft", "textbraceright", "textbar"),
    *("textbackslash", "textasciicircum", "textasciitilde", "textless", "textgreater", "textquotedbl"),
}
"""Commands that entries may have."""

LARGEST = 20_000
"""Characters of an entry."""

_TEX = {
    **{c: "\\" + c for c in "&%$#_"},
    "{": r"\textbraceleft{}",
    "}": r"\textbraceright{}",
    "\\": r"\textbackslash{}",
    "^": r"\textasciicircum{}",
    "~": r"\textasciitilde{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "@": "{@}",
}


def entries_of(text: str) -> dict[str, str]:
    """Key -> entry, for the sound entries of a text; what is between entries, and what is not sound, is left out."""
    found: dict[str, str] = {}
    place = 0
    while (start := _START.search(text, place)) is not None:
        end = _end_of(text, start.end())
        entry = text[start.start() : end].strip()
        if end and start["type"].lower() not in ("comment", "string", "preamble") and is_sound(entry, start["key"]):
            found.setdefault(start["key"], entry)
        place = end or start.end()
    return found


def _end_of(text: str, place: int) -> int:
    """The place behind the brace that closes an entry whose content begins at `place`; 0 if none does."""
    depth = 1
    for match in re.finditer(r"\\.|[{}]", text[place : place + LARGEST], re.DOTALL):
        depth += {"{": 1, "}": -1}.get(match[0], 0)
        if depth == 0:
            return place + match.end()
    return 0


def is_sound(entry: str, key: str) -> bool:
    """Whether an entry has a plain key, balanced braces and no command but those for letters and accents."""
    commands = re.findall(r"\\([A-Za-z]+|.)", entry, re.DOTALL)
    # BibTeX counts braces that a backslash precedes, too, so that these must balance as well
    depths, depth = [], 0
    for brace in re.findall(r"[{}]", entry):
        depth += 1 if brace == "{" else -1
        depths.append(depth)
    balanced = bool(depths) and depths[-1] == 0 and min(depths) >= 0 and 0 not in depths[:-1]
    plain = all(c.isprintable() or c in "\n\r\t" for c in entry)
    return bool(KEY.fullmatch(key)) and balanced and plain and "^^" not in entry and set(commands) <= _COMMANDS


def entry_of_text(key: str, title: str, note: str = "") -> str:
    """An entry for what has a name but no entry of its own: `@misc` with the text, escaped."""
    fields = [f"  title = {{{{{_escaped(title)}}}}}"] + [f"  note  = {{{_escaped(note)}}}"] * bool(note)
    return f"@misc{{{plain_key(key)},\n" + ",\n".join(fields) + "\n}"


def plain_key(text: str) -> str:
    """A key made of any text: letters, digits and hyphens."""
    plain = re.sub(r"[^A-Za-z0-9_.]+", "-", text).strip("-._")[:60]
    return plain or "unnamed"


def _escaped(text: str) -> str:
    return "".join(_TEX.get(c, c) for c in visible(text))


@lru_cache(maxsize=16)
def _file(path: Path, changed: float) -> Mapping[str, str]:
    return entries_of(path.read_text(encoding="utf-8"))


def entries_beside(file: Path) -> Mapping[str, str]:
    """The entries of the file `references.bib` beside a plug-in's file; none if there is no such file."""
    path = file.parent / NAME
    try:
        return _file(path, path.stat().st_mtime)
    except (OSError, UnicodeDecodeError):
        return {}


def cited(cite: str, beside: Mapping[str, str]) -> dict[str, str]:
    """Key -> entry, for what a plug-in declares as `cite`: keys of the file beside it, or entries themselves.

    Raises:
        UserError: A key that the file does not have, or a text without a sound entry.
    """
    if "@" in cite:
        if not (own := entries_of(cite)):
            raise UserError("cite holds no sound BibTeX entry. Write '@inproceedings{key, title = {...}, ...}'.")
        return own
    keys = [key.strip() for key in cite.split(",") if key.strip()]
    if missing := [key for key in keys if key not in beside]:
        raise UserError(f"cite names '{missing[0]}', which is no key of {NAME} beside the plug-in's file.")
    return {key: beside[key] for key in keys}
