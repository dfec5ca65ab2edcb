"""Calls methods of plug-ins while a run is planned; whatever they raise becomes one sentence."""

from __future__ import annotations

from typing import Any

from oodbench.benchmark.errors import OodbenchError, PluginError, first_line
from oodbench.benchmark.plugins.base import Plugin
from oodbench.benchmark.plugins.registry import KINDS


class CallError(PluginError):
    """A method of a plug-in raised an error."""


def asked(plugin: Plugin, method: str, *arguments: Any) -> Any:
    """What a plug-in's method returns.

    Raises `CallError`, which names the plug-in, the method and the error, for anything that the method raises but
    errors of oodbench, which are sentences already.
    """
    try:
        return getattr(plugin, method)(*arguments)
    except OodbenchError:
        raise
    except Exception as error:  # a plug-in may raise anything
        kind = next(kind for kind, (base, *_) in KINDS.items() if isinstance(plugin, base))
        title = f"{kind.replace('dataset', 'data set')} '{plugin.name}'"
        raise CallError(
            f"{method}() of {title} failed: {type(error).__name__}: {first_line(error).rstrip('.')}. Mend it, or leave "
            f"the {kind.replace('dataset', 'data set')} out."
        ) from error
