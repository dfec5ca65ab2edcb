"""Exceptions that are shown to the user, and helpers that phrase them.

Every error raised on purpose is an `OodbenchError`. Its text says what is wrong, which value, what was expected and
what to do. The command line prints this text without a traceback and exits with code 2.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable

MAX_SENTENCE = 2000
"""Characters of an error message; the middle of a longer one, which quotes an endless name, is left out."""


def visible(text: str) -> str:
    """Escape everything that is not printable, so that the text is one line and cannot control a terminal.

    This covers control characters, line ends, marks that change the writing direction, and lone surrogates.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else _escape(c) for c in text)


def _escape(character: str) -> str:
    if unicodedata.category(character) == "Zs":  # such as a no-break space
        return " "
    return character.encode("unicode_escape").decode("ascii")


class OodbenchError(Exception):
    """Base class of all errors shown to the user; its text is printable, whatever names it quotes."""

    def __str__(self) -> str:
        text = visible(super().__str__())
        half = MAX_SENTENCE // 2
        return text if len(text) <= MAX_SENTENCE else f"{text[:half]} ... {text[-half:]}"


class UserError(OodbenchError):
    """An option, name, setting or file given by the user is wrong."""


class PluginError(OodbenchError):
    """A plug-in violates the contract or cannot be loaded."""


class DataError(OodbenchError):
    """A data set is missing, damaged or unsuitable."""


class StoreError(OodbenchError):
    """An artifact cannot be written or read."""


class MetricError(OodbenchError, ValueError):
    """No metric can be computed from the given scores."""


def counted(count: int, noun: str, plural: str = "") -> str:
    """A number with its noun: '1 image', '2,000 images'; `plural` for a noun whose plural is not the noun with an s."""
    return f"{count:,} {noun if count == 1 else plural or noun + 's'}"


def first_line(error: BaseException) -> str:
    """The first line of an exception's message, or its class name if it has no message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def typed_first_line(error: BaseException) -> str:
    """The first line of an exception's message, with its type unless it is one of oodbench's errors."""
    first, _, _ = str(error).strip().partition("\n")
    return first if isinstance(error, OodbenchError) else f"{type(error).__name__}: {first}"


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "", cutoff: float = 0.6) -> str:
    """Suggest the known name nearest to `name`; `otherwise` if none has a similarity of at least `cutoff` (0 to 1)."""
    nearest = difflib.get_close_matches(name, list(known), n=1, cutoff=cutoff)
    return f"Did you mean '{nearest[0]}'?" if nearest else otherwise


def unknown(what: str, name: str, known: Iterable[str], listing: str) -> UserError:
    """An error about an unknown name, with the nearest known one; `listing` is the command that lists all of them."""
    known = list(known)
    sentences = (f"Unknown {what} '{name}'.", did_you_mean(name, known), f"'{listing}' shows all {len(known)}.")
    return UserError(" ".join(filter(None, sentences)))
