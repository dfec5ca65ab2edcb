"""A store shared by several machines: each machine's local folder caches the artifacts of a remote folder at a URL.

    URL/KIND/NAME, URL/KIND/NAME.json     artifacts and their side files, named and keyed as in the local folder
    URL/unfinished/NAME.safetensors       the last snapshot of an unfinished training, with a side file
    URL/files/...                         files of data sets (data/files/staging.py)

An artifact is written locally first, then uploaded, in both places with its side file last. It is downloaded once per
machine, when it is first read; checking whether it exists does not download it. Object stores have no locks, so two
machines may compute the same artifact. That does no harm: its key determines its content, and readers compare
checksums.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

from oodbench.benchmark.errors import StoreError
from oodbench.benchmark.store import atomic
from oodbench.benchmark.store.atomic import to_json
from oodbench.benchmark.store.hashes import file_sha256
from oodbench.benchmark.store.remote import Listings, Remote
from oodbench.benchmark.store.store import Key, Store, parse_side, side_path

logger = logging.getLogger(__name__)

SNAPSHOT_EVERY = 120.0
"""Minimum seconds between two uploads of a training's snapshots."""

SNAPSHOT_SHARE = 20
"""The same as a multiple of the time that the last upload took, so that uploads take at most 5% of a training."""


class SharedStore(Store):
    """A local folder of artifacts that caches a remote one. Raises `StoreError` if the remote one cannot be reached.

    Snapshots of a training are uploaded at most every `snapshot_every` seconds, and not before `snapshot_share` times
    the duration of the last upload has passed.
    """

    def __init__(
        self,
        root: Path,
        remote: Remote,
        snapshot_every: float = SNAPSHOT_EVERY,
        snapshot_share: float = SNAPSHOT_SHARE,
    ) -> None:
        super().__init__(root)
        self.remote = remote
        self._listings = Listings(remote)
        self._sides: dict[str, dict[str, Any]] = {}
        """Remote side files read so far, by their artifacts' paths."""
        self._extras: dict[str, list[Path]] = {}
        """By-products of artifacts, by the artifacts' paths."""
        self._snapshot_every, self._snapshot_share = snapshot_every, snapshot_share
        self._next_snapshot = 0.0
        self._failed: set[str] = set()
        """Kinds of failed uploads that have been logged."""

    def find(self, key: Key) -> Path | None:
        """The artifact's path, downloaded if it is not in the local folder; None if it does not exist or is damaged."""
        return super().find(key) or self._fetch(key)

    def has(self, key: Key, now: bool = False) -> bool:
        """Whether the artifact is in the local folder or in a remote listing; a download may still find it damaged."""
        return super().find(key) is not None or self._listed(key) or (now and self._exists_now(key))

    def side(self, key: Key) -> dict[str, Any]:
        """The side file, from the remote folder if it is not in the local one; the artifact is not downloaded.

        The listing is not consulted: it may be outdated when another machine has just finished.
        """
        if local := super().side(key):
            return local
        if not self._sides.get(key.path):
            self._sides[key.path] = _side_of(key, self.remote.read(f"{key.path}.json") or b"")
        return self._sides[key.path]

    def save(self, key: Key, write: Callable[[Path], None], about: Mapping[str, Any]) -> Path:
        """Write the artifact locally and upload it."""
        path = super().save(key, write, about)
        self._upload(key)
        return path

    def extra(self, key: Key, suffix: str) -> Path:
        """The path of a by-product, which is uploaded with the artifact."""
        path = super().extra(key, suffix)
        self._extras.setdefault(key.path, []).append(path)
        return path

    def remove(self, key: Key) -> None:
        """Delete an artifact in both folders."""
        super().remove(key)
        with suppress(StoreError):
            for path in (f"{key.path}.json", key.path):
                self.remote.remove(path)
                self._listings.discard(path)

    def set_aside(self, key: Key) -> Path:
        """Move an unusable artifact away, and prevent others from downloading it."""
        self._disown(key)
        return super().set_aside(key)

    def share(self, keys: Iterable[Key]) -> None:
        """Upload artifacts that only the local folder has, because an earlier run could not or did not upload them."""
        for key in keys:
            if not self._listed(key) and super().find(key) is not None and not self._exists_now(key):
                self._upload(key)

    def bring(self, keys: Iterable[Key]) -> None:
        """Download artifacts that the local folder lacks, several at once where the protocol allows."""
        wanted = [key for key in dict.fromkeys(keys) if not super(SharedStore, self).side(key) and self._listed(key)]
        with ThreadPoolExecutor(self.remote.threads) as pool:
            list(pool.map(self.find, wanted))

    def _listed(self, key: Key) -> bool:
        return self._listings.hold(key.path, f"{key.path}.json")

    def _exists_now(self, key: Key) -> bool:
        """Whether the remote folder has the side file, which is written last, regardless of older listings."""
        exists = bool(_side_of(key, self.remote.read(f"{key.path}.json") or b""))
        if exists:
            self._listings.add(key.path, f"{key.path}.json")
        return exists

    # uploads

    def _upload(self, key: Key) -> None:
        path = self.root / key.path
        self.remote.remove(f"{key.path}.json")  # an old side file must not vouch for a new artifact
        self.remote.put(path, key.path)
        self.remote.put(side_path(path), f"{key.path}.json")
        self._sides.pop(key.path, None)
        self._listings.add(key.path, f"{key.path}.json")
        for extra in self._extras.pop(key.path, ()):
            self._upload_extra(extra)

    def _upload_extra(self, path: Path) -> None:
        """Upload a file or a folder of files. Nothing depends on them, so failures are only logged."""
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        for file in files:
            upload = partial(self.remote.put, file, file.relative_to(self.root).as_posix())
            self._try_to("by-products", upload)

    def _try_to(self, what: str, upload: Callable[[], object]) -> None:
        """Upload, and log the first failure for each kind of file instead of raising it."""
        try:
            upload()
        except StoreError as error:
            if what not in self._failed:
                self._failed.add(what)
                logger.warning(f"The run continues without {what} in the store: {error}")

    # downloads

    def _fetch(self, key: Key) -> Path | None:
        # One lock for many keys, so that lock files do not pile up; an unnecessary wait is that of one download.
        with self.locks.hold(f"fetch-{key.digest[:2]}"):
            if (path := super().find(key)) is not None:
                return path
            for _ in range(2):  # twice, because another machine may be replacing the artifact at the first attempt
                content = self.remote.read(f"{key.path}.json")
                if content is None:
                    self._listings.discard(f"{key.path}.json")
                    return None
                if (side := _side_of(key, content)) and self._download(key, side):
                    return self.root / key.path
        self._refuse(key)
        return None

    def _download(self, key: Key, side: Mapping[str, Any]) -> bool:
        """Download an artifact; False if it is not the one that the side file describes."""
        path = self.root / key.path
        if not self._get(path, str(side.get("sha256")), lambda file: self._install(file, path, side)):
            return False
        self._listings.add(key.path, f"{key.path}.json")
        return True

    def _get(self, path: Path, sha256: str, install: Callable[[Path], None]) -> bool:
        """Download into a temporary file beside `path` and pass it to `install`; False if its checksum is wrong."""
        try:
            with atomic.temporary_beside(path) as temporary:
                found = self.remote.get(path.relative_to(self.root).as_posix(), temporary)
                if not found or file_sha256(temporary) != sha256:
                    temporary.unlink()
                    return False
                atomic.flush(temporary)
                install(temporary)
        except OSError as error:
            raise StoreError(f"Cannot write '{path}': {error.strerror or error}. Choose another --results.") from error
        return True

    def _refuse(self, key: Key) -> None:
        self._disown(key)
        logger.warning(
            f"'{key.path}' in the store '{self.remote.shown}' does not match its checksum. It counts as missing and is "
            "computed again by the next command that needs it."
        )

    def _disown(self, key: Key) -> None:
        """Make the remote artifact count as missing: remove its side file, if permitted."""
        self._sides.pop(key.path, None)
        with suppress(StoreError):
            self.remote.remove(f"{key.path}.json")
        self._listings.discard(f"{key.path}.json")

    # unfinished trainings

    def bring_unfinished(self, path: Path, is_wanted: Callable[[Mapping[str, Any]], bool]) -> None:
        """Download another machine's snapshot if it is wanted and undamaged."""
        side = parse_side(self.remote.read(f"{path.relative_to(self.root).as_posix()}.json") or b"")
        facts = side.get("about", {})
        if (
            side
            and is_wanted(facts)
            and self._get(path, str(side.get("sha256")), lambda file: atomic.rename(file, path))
        ):
            logger.info(f"Resuming from a snapshot of '{path.stem}' that another machine has uploaded to the store.")

    def share_unfinished(self, path: Path, facts: Mapping[str, Any]) -> None:
        """Upload a snapshot unless the last upload is too recent."""
        start = time.monotonic()
        if start < self._next_snapshot:
            return
        name = path.relative_to(self.root).as_posix()
        side = to_json({"sha256": file_sha256(path), "about": dict(facts)})

        def upload() -> None:
            self.remote.put(path, name)
            self.remote.write(f"{name}.json", side.encode())

        self._try_to("snapshots", upload)
        end = time.monotonic()
        self._next_snapshot = end + max(self._snapshot_every, self._snapshot_share * (end - start))

    def drop_unfinished(self, path: Path) -> None:
        """Remove a snapshot from both folders."""
        super().drop_unfinished(path)
        name = path.relative_to(self.root).as_posix()
        with suppress(StoreError):
            self.remote.remove(f"{name}.json")
            self.remote.remove(name)


def _side_of(key: Key, content: bytes) -> dict[str, Any]:
    """The content of a side file, parsed; empty if it is invalid or of another key."""
    side = parse_side(content)
    return side if side.get("digest") == key.digest else {}
