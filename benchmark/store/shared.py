"""A store that several machines share: what is in one's local folder is a copy of what lies at a URL.

    URL/KIND/NAME, URL/KIND/NAME.json     artifacts and their side files, under the names and keys of the local folder
    URL/unfinished/NAME.safetensors       the last snapshot of a training under way, and beside it what it is
    URL/files/...                         files of data sets (files/staged.py)

An artifact is written here first, then there, its side file last in both places. It is fetched when it is read, once a
machine; whether it is there is asked without fetching it. Object stores have no locks: two machines may make the same
artifact, which does no harm, because its key is what it was made from, and a reader compares checksums.
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
from oodbench.benchmark.store.remote import Listings, Remote
from oodbench.benchmark.store.store import Key, Store, file_sha256, parse_side, side_path

logger = logging.getLogger(__name__)

SNAPSHOT_EVERY = 120.0
"""Seconds between two uploads of a training's snapshots."""

SNAPSHOT_SHARE = 20
"""And so many times as long as the last upload took, so that uploads take no more than 5% of a training."""


class SharedStore(Store):
    """A local folder of artifacts in front of a remote one. `StoreError` where the remote one cannot be reached."""

    def __init__(self, root: Path, remote: Remote) -> None:
        super().__init__(root)
        self.remote = remote
        self._listings = Listings(remote)
        self._sides: dict[str, dict[str, Any]] = {}
        """Side files that were read there, by their artifacts' paths."""
        self._extras: dict[str, list[Path]] = {}
        """By-products that go with an artifact, by its path."""
        self._next_snapshot = 0.0
        self._failed: set[str] = set()
        """What could not be uploaded and was said."""

    def find(self, key: Key) -> Path | None:
        """The artifact's path, fetched if it is not here; None if it is nowhere, or not whole."""
        return super().find(key) or self._fetched(key)

    def has(self, key: Key, now: bool = False) -> bool:
        """Whether it is here or listed there; whether it is whole there is seen when it is fetched."""
        return super().find(key) is not None or self._listed(key) or (now and self._has_come(key))

    def side(self, key: Key) -> dict[str, Any]:
        """The side file, from there if it is not here; the artifact is not fetched.

        It is asked for, not looked up in a listing: a record may be written in the moment another machine is done.
        """
        if here := super().side(key):
            return here
        if not self._sides.get(key.path):
            self._sides[key.path] = _of(key, self.remote.read(f"{key.path}.json") or b"")
        return self._sides[key.path]

    def save(self, key: Key, write: Callable[[Path], None], about: Mapping[str, Any]) -> Path:
        """Make the artifact here, then there."""
        path = super().save(key, write, about)
        self._upload(key)
        return path

    def extra(self, key: Key, suffix: str) -> Path:
        """The path of a by-product, which is uploaded when the artifact is."""
        path = super().extra(key, suffix)
        self._extras.setdefault(key.path, []).append(path)
        return path

    def remove(self, key: Key) -> None:
        """Delete an artifact here and there."""
        super().remove(key)
        with suppress(StoreError):
            for path in (f"{key.path}.json", key.path):
                self.remote.remove(path)
                self._listings.discard(path)

    def set_aside(self, key: Key) -> Path:
        """Move an artifact that is of no use away, and have nobody fetch it."""
        self._disown(key)
        return super().set_aside(key)

    def share(self, keys: Iterable[Key]) -> None:
        """Upload what is here and not there: made without a store, or before one could not be reached."""
        for key in keys:
            if not self._listed(key) and super().find(key) is not None and not self._has_come(key):
                self._upload(key)

    def bring(self, keys: Iterable[Key]) -> None:
        """Fetch what is there and not here, several at once where the protocol allows."""
        wanted = [key for key in dict.fromkeys(keys) if not super(SharedStore, self).side(key) and self._listed(key)]
        with ThreadPoolExecutor(self.remote.threads) as pool:
            list(pool.map(self.find, wanted))

    def _listed(self, key: Key) -> bool:
        return self._listings.hold(key.path, f"{key.path}.json")

    def _has_come(self, key: Key) -> bool:
        """Whether its side file, which is written last, is there by now."""
        there = bool(_of(key, self.remote.read(f"{key.path}.json") or b""))
        if there:
            self._listings.add(key.path, f"{key.path}.json")
        return there

    # up

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
        """A file, or a folder of them. They are for people, so one that cannot be uploaded stops nothing."""
        files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
        for file in files:
            upload = partial(self.remote.put, file, file.relative_to(self.root).as_posix())
            self._try_to("by-products", upload)

    def _try_to(self, what: str, upload: Callable[[], object]) -> None:
        """Do without an upload that fails; say so once."""
        try:
            upload()
        except StoreError as error:
            if what not in self._failed:
                self._failed.add(what)
                logger.warning(f"The run goes on without {what} in the store: {error}")

    # down

    def _fetched(self, key: Key) -> Path | None:
        # One lock for many keys, so that their files do not pile up: who waits without need waits for one download.
        with self.locks.hold(f"fetch-{key.digest[:2]}"):
            if (path := super().find(key)) is not None:
                return path
            for _ in range(2):  # another machine may be replacing it, and be done with that the second time
                content = self.remote.read(f"{key.path}.json")
                if content is None:
                    self._listings.discard(f"{key.path}.json")
                    return None
                if (side := _of(key, content)) and self._download(key, side):
                    return self.root / key.path
        self._refuse(key)
        return None

    def _download(self, key: Key, side: Mapping[str, Any]) -> bool:
        """Fetch an artifact; False if it is not what the side file belongs to."""
        path = self.root / key.path
        if not self._get(path, str(side.get("sha256")), lambda file: self._put_in_place(file, path, side)):
            return False
        self._listings.add(key.path, f"{key.path}.json")
        return True

    def _get(self, path: Path, sha256: str, keep: Callable[[Path], None]) -> bool:
        """Fetch a file of the store's into a temporary one beside `path` and hand that over if it is whole."""
        try:
            with atomic.temporary_beside(path) as temporary:
                whole = self.remote.get(path.relative_to(self.root).as_posix(), temporary)
                if not whole or file_sha256(temporary) != sha256:
                    temporary.unlink()
                    return False
                atomic.flush(temporary)
                keep(temporary)
        except OSError as error:
            raise StoreError(f"Cannot write '{path}': {error.strerror or error}. Choose another --results.") from error
        return True

    def _refuse(self, key: Key) -> None:
        self._disown(key)
        logger.warning(
            f"'{key.path}' in the store '{self.remote.shown}' does not match its checksum: it counts as absent, and is "
            "made again by the next command that needs it."
        )

    def _disown(self, key: Key) -> None:
        """Have it count as absent there: remove its side file, if that may be removed."""
        self._sides.pop(key.path, None)
        with suppress(StoreError):
            self.remote.remove(f"{key.path}.json")
        self._listings.discard(f"{key.path}.json")

    # trainings under way

    def bring_unfinished(self, path: Path, is_wanted: Callable[[Mapping[str, Any]], bool]) -> None:
        """Fetch another machine's snapshot if it is wanted; one that is not whole is left alone."""
        side = parse_side(self.remote.read(f"{path.relative_to(self.root).as_posix()}.json") or b"")
        facts = side.get("about", {})
        if (
            side
            and is_wanted(facts)
            and self._get(path, str(side.get("sha256")), lambda file: atomic.rename(file, path))
        ):
            logger.info(f"Going on from a snapshot of '{path.stem}' that another machine has put into the store.")

    def share_unfinished(self, path: Path, facts: Mapping[str, Any]) -> None:
        """Upload a snapshot if it is time for one."""
        began = time.monotonic()
        if began < self._next_snapshot:
            return
        name = path.relative_to(self.root).as_posix()
        side = to_json({"sha256": file_sha256(path), "about": dict(facts)})

        def upload() -> None:
            self.remote.put(path, name)
            self.remote.write(f"{name}.json", side.encode())

        self._try_to("snapshots", upload)
        ended = time.monotonic()
        self._next_snapshot = ended + max(SNAPSHOT_EVERY, SNAPSHOT_SHARE * (ended - began))

    def drop_unfinished(self, path: Path) -> None:
        """Remove a snapshot here and there."""
        super().drop_unfinished(path)
        name = path.relative_to(self.root).as_posix()
        with suppress(StoreError):
            self.remote.remove(f"{name}.json")
            self.remote.remove(name)


def _of(key: Key, content: bytes) -> dict[str, Any]:
    """What a side file holds; empty if it is none of this very key."""
    side = parse_side(content)
    return side if side.get("digest") == key.digest else {}
