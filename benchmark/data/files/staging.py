"""Shares the files of data sets through a store, for machines that have no copy of their own.

    URL/files/NAME         the file, under its name in the data folder
    URL/files/NAME.json    its SHA-256

The command that plans a run uploads them. Each machine fetches a file once into its data folder and verifies it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from oodbench.benchmark.errors import DataError
from oodbench.benchmark.store import atomic
from oodbench.benchmark.store.atomic import to_json, unique_slug
from oodbench.benchmark.store.hashes import file_sha256
from oodbench.benchmark.store.locks import Locks
from oodbench.benchmark.store.remote import Listings, Remote
from oodbench.benchmark.store.store import parse_side

if TYPE_CHECKING:
    from oodbench.benchmark.data.files.file_source import File, Source

logger = logging.getLogger(__name__)

FOLDER = "files"
"""Folder of the store."""


class StagedFiles:
    """Uploads files of the data folder to a store, and fetches absent ones from it."""

    def __init__(self, remote: Remote, data_dir: Path, locks: Locks) -> None:
        self._remote, self._data_dir, self._locks = remote, data_dir, locks
        self._listings = Listings(remote)

    def stage(self, files: Mapping[Path, str]) -> None:
        """Upload files of the data folder (path -> SHA-256) that the store lacks or has with other content."""
        for path, sha256 in files.items():
            if not path.is_relative_to(self._data_dir) or path.is_dir():
                logger.warning(
                    f"'{path}' is not uploaded to the store, which only takes regular files of the data folder. Pack a "
                    "folder as a zip, or give every machine a copy."
                )
                continue
            name = path.relative_to(self._data_dir).as_posix()
            if self._sha256(name) != sha256:
                logger.info(f"Uploading '{path}' ({path.stat().st_size / 1e6:,.1f} MB) to the store.")
                self._upload(path, name, sha256)

    def fetch(self, sources: Sequence[Source]) -> bool:
        """Complete the first source whose missing files are all in the store; False if there is none."""
        for source in sources:
            missing = [file for file in source.files if file.find(self._data_dir) is None]
            names = [name for file in missing if (name := self._stored_name(file)) is not None]
            if names and len(names) == len(missing):
                for name in names:
                    self._fetch(name)
                return True
        return False

    def _stored_name(self, file: File) -> str | None:
        """The name under which the store has a file; None if it does not have it."""
        names = (name for name in file.names if not Path(name).is_absolute())
        return next((n for n in names if self._listings.hold(f"{FOLDER}/{n}", f"{FOLDER}/{n}.json")), None)

    def _sha256(self, name: str) -> str:
        """SHA-256 of a file in the store; empty if the store does not have it."""
        if not self._listings.hold(f"{FOLDER}/{name}", f"{FOLDER}/{name}.json"):
            return ""
        return str(parse_side(self._remote.read(f"{FOLDER}/{name}.json") or b"").get("sha256", ""))

    def _upload(self, path: Path, name: str, sha256: str) -> None:
        self._remote.remove(f"{FOLDER}/{name}.json")  # written last, as with artifacts
        self._remote.put(path, f"{FOLDER}/{name}")
        self._remote.write(f"{FOLDER}/{name}.json", to_json({"sha256": sha256}).encode())
        self._listings.add(f"{FOLDER}/{name}", f"{FOLDER}/{name}.json")

    def _fetch(self, name: str) -> None:
        target = self._data_dir / name
        with self._locks.hold(f"fetch-{unique_slug(name)}", f"is fetching '{target}'"):
            if target.exists():
                return
            logger.info(f"Fetching '{target}' from the store.")
            try:
                with atomic.temporary_beside(target) as temporary:
                    self._download(name, temporary)
                    atomic.flush(temporary)
                    atomic.rename(temporary, target)
            except OSError as error:
                raise DataError(
                    f"'{target}' cannot be written: {error.strerror or error}. Choose another --data-dir."
                ) from error

    def _download(self, name: str, temporary: Path) -> None:
        """Download a file and verify its checksum."""
        sha256 = self._sha256(name)
        if not self._remote.get(f"{FOLDER}/{name}", temporary) or file_sha256(temporary) != sha256:
            raise DataError(
                f"'{FOLDER}/{name}' in the store '{self._remote.shown}' does not match its checksum. Remove it there, "
                "and run the command again on a machine that has the file."
            )
