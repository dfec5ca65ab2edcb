"""What can go wrong, as sentences to the user.

Every error raised on purpose is an `OodbenchError` whose text says what is wrong, which value, what was expected
and what to do. The command line prints that one sentence, without a traceback, and exits with code 2.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

MAX_SENTENCE = 2000
"""Characters of an error; of a longer one, which quotes a name without end, the middle is left out."""


def visible(text: str) -> str:
    """Text on one line that no terminal obeys: what does not print is written as its escape, such as \\x1b.

    That is control characters, line ends, marks that turn the direction of writing, and halves of surrogate pairs.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    if unicodedata.category(character) == "Zs":  # other spaces
        return " "
    return character.encode("unicode_escape").decode("ascii")


class OodbenchError(Exception):
    """Base of every error that is told to the user as one sentence, printable whatever names it quotes."""

    def __str__(self) -> str:
        text = visible(super().__str__())
        half = MAX_SENTENCE // 2
        return text if len(text) <= MAX_SENTENCE else f"{text[:half]} ... {text[-half:]}"


class UserError(OodbenchError):
    """A wrong option, name, setting or file."""


class PluginError(OodbenchError):
    """A plug-in that does not keep the contract or cannot be loaded."""


class DataError(OodbenchError):
    """A data set that is absent, damaged or unfit for what was asked."""


class StoreError(OodbenchError):
    """An artifact that cannot be written or read."""


class MetricError(OodbenchError, ValueError):
    """Scores from which no metric can be computed."""


def first_line(error: BaseException) -> str:
    """What an exception says, in one line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def unknown(what: str, name: str, known: Iterable[str], listing: str) -> UserError:
    """Say that `name` is no `what`, offer the nearest of `known`, and name the command that lists them all."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1)
    hint = f" Did you mean '{near[0]}'?" if near else ""
    return UserError(f"Unknown {what} '{name}'.{hint} '{listing}' shows all {len(known)}.")
