"""What can go wrong, as sentences to the user.

Every error raised on purpose is an `OodbenchError` whose text says what is wrong, which value, what was expected
and what to do. The command line prints that one sentence, without a traceback, and exits with code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class OodbenchError(Exception):
    """Base of every error that is told to the user as one sentence."""


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
