"""Makes a view so that its failure stops nothing else: records are written before any view, and views fail alone."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable
from pathlib import Path

from oodbench.benchmark.errors import OodbenchError, first_line
from oodbench.benchmark.store.atomic import write_atomically

logger = logging.getLogger(__name__)


def make_alone(what: str, make: Callable[[], list[Path]], folder: Path, again: str) -> list[Path] | None:
    """The files that `make` writes; None, a warning and a traceback in `folder`/logs if it raises.

    Args:
        what: The view in the plural, such as 'plots'.
        make: Writes the view and returns its files.
        folder: The run's folder.
        again: The command that makes the view again.

    Raises:
        OodbenchError: What the user can fix, such as a full disk.
    """
    try:
        return make()
    except OodbenchError:
        raise
    except Exception as error:  # libraries that draw may raise anything
        log = folder / "logs" / f"view-{what.replace(' ', '-')}.txt"
        write_atomically(log, traceback.format_exc())
        logger.warning(
            "The %s of '%s' could not be made: %s: %s. Records are complete. Traceback: %s. Try again with '%s'.",
            *(what, folder.name, type(error).__name__, first_line(error).rstrip("."), log, again),
        )
        return None
