"""Takes out of `run.json` and of records what tells of an author's machine, and what differs between equal runs.

Of a path, the name of the file stays. Fields of `run.json` and of commands are kept by name (`KEPT`, `ASKED`), so that
a field that is added later is left out until somebody decides about it; then every text, wherever it is, is searched
for paths and URLs.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

KEPT = (
    *("schema", "name", "suite", "cells", "pairs", "seeds", "detectors", "notes", "skipped", "unavailable"),
    *("packages", "commit", "version", "python", "torch", "numpy", "processor", "device", "device_name", "threads"),
    *("preprocessing", "passes", "commands", "parts", "asked", "costs", "described", "references"),
)
"""Fields of `run.json` that a bundle has. Left out are, among others, `data` (paths), `platform` and `written`."""

ASKED = (
    *("backbone", "block", "checkpoint", "classes", "crop", "detectors", "device", "epochs", "exif", "far", "fit_from"),
    *("fit_per_class", "head", "higher", "id_sets", "interpolation", "limit_test", "limit_train", "mean", "metrics"),
    *("near", "ood_sets", "outputs", "plugins", "pollution", "precision", "protocol", "recipe", "resize", "scores"),
    *(
        "seeds",
        "skip_bad_images",
        "stability",
        "std",
        "store_features",
        "suite",
        "suite_toml",
        "threads",
        "text of the suite",
    ),
)
"""Options of a command that a bundle has: those that say what is computed. Folders, engines and stores are left out."""

PATHS = ("checkpoint", "classes", "outputs", "plugins", "scores", "suite")
"""Options that are paths, of which the names stay."""

OF_ARTIFACT = ("kind", "path", "key", "sha256", "version", "commit", "device", "threads", "torch", "block", "chosen")
"""Fields of an artifact in a record's provenance that a bundle has: all but time, seconds and memory."""

PATH = re.compile(r"(?<![\w./~-])(?:~[\w.-]*(?:/[^\s/'\"<>|;,()\[\]{}]+)+|(?:/[^\s/'\"<>|:;,()\[\]{}]+){2,})/?")
"""An absolute path of two names or more, or one below a home folder, in a text."""

WINDOWS = re.compile(r"(?<![\w])(?:[A-Za-z]:\\|\\\\)[^\s'\"<>|]+")

URL = re.compile(r"\b(?!https?://)[a-z][a-z0-9+.-]{1,20}://[^\s'\"<>]+", re.IGNORECASE)
"""The address of a store or file. Those of pages stay, without a name and password."""

CREDENTIALS = re.compile(r"(https?://)[^\s/@'\"]+@", re.IGNORECASE)

GIVEN = re.compile(r"(outputs[:_])([0-9a-f]{8})(?=[/_])")
"""The name of given arrays, with a hash of where they are; in names of files, in the form of a slug."""


class Private:
    """Removes what is private from the JSON of one run.

    Args:
        info: The content of its `run.json`, whose paths are looked for everywhere.
        folders: Further folders, such as the run's own and the user's home.
    """

    def __init__(self, info: Mapping[str, Any], folders: Iterable[Path] = ()) -> None:
        paths = {str(folder.absolute()) for folder in folders} | {*_paths(info)}
        # Longest first: a folder may be part of another's path.
        known = sorted((path.rstrip("/\\") for path in paths), key=lambda path: (-len(path), path))
        self.known = [re.compile(rf"(?<![\w.~-]){re.escape(path)}(?![\w-])") for path in known if len(path) > 2]
        self.home = str(Path.home())
        self._renamed: dict[str, str] = {}

    def rename_given(self, checksums: Mapping[str, Iterable[str]]) -> None:
        """Name given arrays by their images, not by where they are; hash in names -> checksums of the images."""
        for name, known in checksums.items():
            self._renamed[name] = hashlib.sha256("".join(sorted(known)).encode()).hexdigest()[:8]

    def text(self, text: str) -> str:
        """A text without paths and addresses."""
        for path in self.known:
            text = path.sub(lambda found: "~" if found[0] == self.home else _last(found[0]), text)
        text = CREDENTIALS.sub(r"\1", URL.sub(lambda found: _last(found[0]) or "URL", text))
        text = PATH.sub(lambda found: _last(found[0]), WINDOWS.sub(lambda found: _last(found[0]), text))
        return GIVEN.sub(lambda found: found[1] + self._renamed.get(found[2], found[2]), text)

    def clean(self, value: Any) -> Any:
        """The same for all texts inside of JSON, names of fields included."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, Mapping):
            return {self.text(str(name)): self.clean(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.clean(item) for item in value]
        return value

    def info(self, info: Mapping[str, Any], name: str, cells: Mapping[str, str]) -> dict[str, Any]:
        """`run.json` of a bundle. `cells`: name of a record's file -> its name in the bundle."""
        kept = {field: info[field] for field in KEPT if field in info}
        kept["cells"] = [cells[Path(cell).name] for cell in info.get("cells", ()) if Path(cell).name in cells]
        commands = info.get("commands")
        if isinstance(commands, list):
            kept["commands"] = [_asked(command) for command in commands if isinstance(command, Mapping)]
        if isinstance(info.get("asked"), Mapping):
            kept["asked"] = _asked(info["asked"])
        kept["parts"] = [_part(part, cells) for part in info.get("parts", ())]
        return {**self.clean(kept), "name": name}

    def record(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The JSON of a record in a bundle."""
        provenance = dict(record.get("provenance") or {})
        if "made" in provenance:
            provenance["made"] = {name: value for name, value in provenance["made"].items() if name != "written"}
        if "artifacts" in provenance:
            provenance["artifacts"] = [
                {name: artifact[name] for name in OF_ARTIFACT if name in artifact}
                for artifact in provenance["artifacts"]
            ]
        origin = dict(record.get("origin") or {})
        if "shown" in origin:
            origin["shown"] = {name: value for name, value in origin["shown"].items() if name != "path"}
        # AUROC by class follows from labels, which a bundle does not have.
        plain = {**record, "provenance": provenance, "seconds": 0.0, "peak_memory": None, "by_class": {}}
        cleaned = self.clean(plain)
        return {**cleaned, "origin": self.clean(origin)} if "origin" in record else cleaned

    def leak(self, text: str) -> str:
        """A path or address that is left in a text; empty if there is none."""
        matches = (pattern.search(text) for pattern in (*self.known, PATH, WINDOWS, URL, CREDENTIALS))
        return next((match[0] for match in matches if match), "")


def texts(value: Any) -> Iterator[str]:
    """Every text inside of JSON, names of fields included."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for name, item in value.items():
            yield str(name)
            yield from texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from texts(item)


def given_hashes(value: Any) -> set[str]:
    """The hashes in names of given arrays anywhere inside of JSON."""
    return {found[2] for text in texts(value) for found in GIVEN.finditer(text)}


def _paths(info: Mapping[str, Any]) -> Iterator[str]:
    """The absolute paths that `run.json` states."""
    for source in (info.get("commands"), info.get("asked"), info.get("data"), info.get("again")):
        for text in texts(source):
            path = text.partition(":")[2] if text.startswith(("folder:", "list:")) else text
            for one in (path, path.partition(".py:")[0]):
                if "\n" not in one and len(one) < 4096 and (one.startswith(("/", "~")) or PureWindowsPath(one).drive):
                    yield one


def _asked(command: Mapping[str, Any]) -> dict[str, Any]:
    """What a command asks for, without where it runs; paths by their names."""
    kept = {name: command[name] for name in ASKED if name in command}
    for name in (name for name in PATHS if name in kept):
        value = kept[name]
        kept[name] = (
            [_last(str(path)) for path in value] if isinstance(value, list | tuple) else _last(str(value or ""))
        )
    for name in ("id_sets", "ood_sets", "near", "far"):
        if isinstance(kept.get(name), list | tuple):
            kept[name] = [_own_set(str(text)) for text in kept[name]]
    backbone = str(kept.get("backbone") or "")
    if ".py:" in backbone:
        kept["backbone"] = _last(backbone)
    return kept


def _own_set(text: str) -> str:
    """A set as it is named on a command line; of a path, the last name."""
    prefix, mark, path = text.partition(":")
    return f"{prefix}:{_last(path)}" if mark and prefix.strip() in ("folder", "list") else text


def _part(part: Mapping[str, Any], cells: Mapping[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {"options": _asked(part.get("options") or {})}
    if "cells" in part:
        found["cells"] = [cells[Path(name).name] for name in part["cells"] if Path(name).name in cells]
    return found


def _last(path: str) -> str:
    """The last name of a path of any system."""
    return PurePosixPath(PureWindowsPath(path).name if "\\" in path else path).name
