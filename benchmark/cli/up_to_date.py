"""`bench run` where nothing is left to do: it answers without planning, if everything is as when it last found so."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oodbench.benchmark.records.up_to_date import Remembered, Situation, UnknownError, remember, remembered
from oodbench.benchmark.store.atomic import unique_slug
from oodbench.benchmark.store.user_path import user_path

if TYPE_CHECKING:
    from oodbench.benchmark.api import Prepared

GIVEN = ("outputs", "scores", "checkpoint", "store", "head", "tensorboard")
"""Options that name the user's files or a store elsewhere; with any of them, every command plans."""

OWN = (
    *("folder:", "list:", "wordnet", ".py:"),
    *(".toml", ".txt", ".csv", ".json", ".npy", ".npz", ".pt", ".safetensors"),
)
"""In a suite's file or an option: what refers to further files of the user, such as a detector's list of words."""

NAMES = ("id_sets", "ood_sets", "near", "far", "backbone", "recipe", "detectors")
"""Options in which a file may be named; a slash in one of them is a path."""

logger = logging.getLogger("oodbench")


@dataclass(frozen=True, eq=False)
class Shortcut:
    """A command whose options name no files but plug-ins and a suite, as it found things before it planned."""

    options: Mapping[str, Any]
    files: Sequence[Path]
    situation: Situation

    @classmethod
    def of(cls, options: Mapping[str, Any], plugins: Sequence[Path]) -> Shortcut | None:
        """That of a command; None where it plans in any case."""
        suite = str(options["suite"])
        named = [str(options[name]) for name in NAMES]
        has_path = any("/" in text or "\\" in text for text in named)
        files = [user_path(file) for file in plugins]
        try:
            if suite.endswith(".toml"):
                files.append(user_path(suite))
                named.append(files[-1].read_text(encoding="utf-8-sig"))
            if (
                any(options.get(name) for name in GIVEN)
                or has_path
                or any(own in text for own in OWN for text in named)
            ):
                return None
            if (options["engine"], options["rerun"]) != ("local", "missing"):
                return None
            return cls(options, files, Situation.of(options, user_path(options["data_dir"]), files))
        except (OSError, ValueError, UnknownError):
            return None

    def answer(self) -> tuple[Path, Remembered] | None:
        """The run's folder and what is known of it, if this command has nothing to do; None if that is not known."""
        runs = user_path(self.options["results"]) / "runs"
        name = str(self.options["name"])
        try:
            folders = [runs / unique_slug(name)] if name else [one for one in sorted(runs.iterdir()) if one.is_dir()]
        except OSError:
            return None
        return remembered(folders, self.situation)

    def remember(self, prepared: Prepared, messages: Sequence[tuple[int, str]]) -> None:
        """Remember that a command had nothing to do, unless it had, or a cell failed, or something has changed."""
        from oodbench.benchmark.cli.text import dry_run_text
        from oodbench.benchmark.plugins.source_version import declared_files
        from oodbench.benchmark.records.record import NOT_TRAINED
        from oodbench.benchmark.store.store import side_path

        plan, work = prepared.plan, prepared.work
        kept = [*work.kept.values()]
        if work.cells or work.jobs or not kept or any(one.status == "failed" for one in kept):
            return
        imports = any(job.kind == "import" for job in plan.jobs.values())
        if imports or any(cell.record.recipe in NOT_TRAINED for cell in plan.cells):
            return  # weights come from files that are not looked at here
        root = prepared.context.store.root
        artifacts = [root / key.path for job in plan.jobs.values() for key in job.makes]
        there = [file for path in artifacts for file in (path, side_path(path)) if file.is_file()]
        try:
            data_dir = user_path(self.options["data_dir"])
            again = Situation.of(self.options, data_dir, self.files, self.situation.process)
        except UnknownError:
            return
        said = Said(dry_run_text(prepared), list(messages))
        remember(prepared.run_dir, self.situation, again, said.to_text(), there, declared_files())


@dataclass(frozen=True)
class Said:
    """What a command with nothing to do said."""

    dry_run: str
    messages: Sequence[Sequence[Any]]
    """[level, text] of its log messages."""

    def to_text(self) -> str:
        """As a marker keeps it."""
        return json.dumps([self.dry_run, self.messages])

    @classmethod
    def of_text(cls, text: str) -> Said:
        """The inverse of `to_text`."""
        return cls(*json.loads(text))

    def repeat_messages(self) -> None:
        """Log them again."""
        for level, message in self.messages:
            logger.log(level, "%s", message)


@contextmanager
def heard() -> Iterator[list[tuple[int, str]]]:
    """The log messages of the package that are shown meanwhile: level and text."""
    messages: list[tuple[int, str]] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append((record.levelno, record.getMessage()))

    listener = Listener(logging.INFO)
    logger.addHandler(listener)
    try:
        yield messages
    finally:
        logger.removeHandler(listener)
