"""`CheckError` and `SkippedCheck`, which the contract checks of plug-ins raise."""

from __future__ import annotations


class CheckError(AssertionError):
    """A plug-in breaks its contract; the message is one sentence that says how."""


class SkippedCheck(Exception):  # noqa: N818  (no error)
    """A check does not apply to a plug-in; the message says why."""
