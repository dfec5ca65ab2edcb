"""Names of the sets of images whose arrays the user gives: what tables call them, and what they are registered under.

A given set is called what the user calls it, such as `svhn`. It is registered as `outputs:0123abcd/svhn`, with a hash
of where its files are, so that it cannot be taken for a data set of the same name.
"""

from __future__ import annotations

import re
from urllib.parse import quote, unquote

PREFIX = "outputs:"

NAME = re.compile(PREFIX + r"[0-9a-f]{8}/([A-Za-z0-9_.~%-]+)")
"""A registered name; the user's own is in its group, with `%` and two digits for other characters."""


def registered_name(source: str, name: str) -> str:
    """The name under which a set is registered; `source`: hash of where its files are, of 8 digits or more."""
    return f"{PREFIX}{source[:8]}/{quote(name, safe='')}"


def plain_name(name: str) -> str:
    """The user's own name of a given set; any other name is returned unchanged."""
    found = NAME.fullmatch(name)
    return unquote(found[1]) if found else name


def with_plain_names(text: str) -> str:
    """A text in which given sets are called what the user calls them."""
    return NAME.sub(lambda found: unquote(found[1]), text)
