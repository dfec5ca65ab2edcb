"""Captions as Markdown: paragraphs filled to one width, lists kept line by line."""

from __future__ import annotations

import textwrap

WIDTH = 118


def filled(text: str) -> str:
    """The text with every paragraph filled anew; a paragraph whose lines begin with '- ' stays a list."""
    return "\n\n".join(_part(part) for part in text.strip().split("\n\n"))


def _part(part: str) -> str:
    if part.startswith("- "):
        return "\n".join(line.strip() for line in part.splitlines())
    return textwrap.fill(" ".join(part.split()), WIDTH, break_long_words=False, break_on_hyphens=False)
