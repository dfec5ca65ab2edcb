"""Formats captions as Markdown: paragraphs are wrapped to one width, lists keep their lines."""

from __future__ import annotations

import textwrap

WIDTH = 118


def filled(text: str) -> str:
    """The text with every paragraph wrapped again; a paragraph that begins with '- ' stays a list."""
    return "\n\n".join(_part(part) for part in text.strip().split("\n\n"))


def _part(part: str) -> str:
    if part.startswith("- "):
        return "\n".join(line.strip() for line in part.splitlines())
    return textwrap.fill(" ".join(part.split()), WIDTH, break_long_words=False, break_on_hyphens=False)
