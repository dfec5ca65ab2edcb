"""The pages of the documentation, their fenced blocks, and the commands in them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = [page.relative_to(DOCS).as_posix() for page in sorted(DOCS.glob("**/*.md"))]

FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
ENDS = ("&&", "||", "|", ">", ";")
"""Where a shell's command ends."""


class Block(NamedTuple):
    """A fenced block: its language, empty where it has none, and its text."""

    language: str
    text: str

    @property
    def file(self) -> str:
        """The file's name in a first line such as '# my_detector.py'; empty where there is none."""
        found = re.match(r"# ([\w.]+\.(?:py|toml))\n", self.text)
        return found[1] if found else ""


def read(page: str) -> str:
    return (DOCS / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    return [Block(language.strip(), text) for _, language, text in FENCE.findall(read(page))]


def commands(text: str, program: str) -> Iterator[list[str]]:
    """The arguments of every call of a program in lines of a shell."""
    for line in text.replace("\\\n", " ").splitlines():
        if not re.search(rf"(?<!\S){program}\s", line):  # drawings of folders, output
            continue
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            raise AssertionError(f"{error}: {line}") from error
        for start, word in enumerate(words):
            if word == program:
                rest = words[start + 1 :]
                stop = next((k for k, other in enumerate(rest) if other in ENDS), len(rest))
                yield rest[:stop]


def shell_commands(page: str, program: str = "bench") -> list[list[str]]:
    """The arguments of every call of a program in a page's blocks of shell commands."""
    shell = [block.text for block in blocks(page) if block.language in ("", "bash")]
    return [arguments for text in shell for arguments in commands(text, program)]


def inline_commands(page: str, program: str) -> list[list[str]]:
    """The same in the page's running text, where a command may be cut short."""
    prose = FENCE.sub("", read(page))
    spans = [" ".join(span.split()) for span in re.findall(rf"`({program} [^`]+)`", prose)]
    return [arguments for span in spans for arguments in commands(span, program)]
