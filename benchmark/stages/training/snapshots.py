"""Snapshots of a running training: a stopped one resumes from the last snapshot, bit for bit on the same machine.

cache/unfinished/READABLE-NAME-0123456789ab.safetensors    one file, replaced atomically, deleted when training ends
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from oodbench.benchmark.errors import OodbenchError
from oodbench.benchmark.plan.jobs import TrainJob
from oodbench.benchmark.stages.training.train_loop import TrainLoop
from oodbench.benchmark.store.atomic import slug, write_atomically
from oodbench.benchmark.store.store import UNFINISHED, Store
from oodbench.benchmark.store.tensor_file import NOT_PLAIN, from_file, to_bytes

logger = logging.getLogger(__name__)

AFTER_EPOCH = 20.0
"""Default of `SnapshotIntervals.after_epoch`: an epoch shorter than this is cheap to repeat."""

WITHIN_EPOCH = 600.0
"""Default of `SnapshotIntervals.within_epoch`."""


class SnapshotIntervals(NamedTuple):
    """How many seconds after the previous snapshot the next one is taken."""

    after_epoch: float
    """At the end of an epoch."""
    within_epoch: float
    """Between two steps of an epoch."""


class Snapshots:
    """Takes and resumes the snapshots of one training job.

    `seconds` is the time that earlier processes spent on the job before they were stopped, `stops` how many of them
    there were. `every`: the intervals; by default `AFTER_EPOCH` and `WITHIN_EPOCH`.
    """

    def __init__(
        self,
        store: Store,
        job: TrainJob,
        loop: TrainLoop,
        every: SnapshotIntervals | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._every = every or SnapshotIntervals(AFTER_EPOCH, WITHIN_EPOCH)
        key = job.checkpoint.key
        self._path = store.root / UNFINISHED / f"{slug(key.label)}-{key.digest[:12]}.safetensors"
        self._store, self._digest, self._loop, self._clock = store, key.digest, loop, clock
        self._started = self._last = clock()
        self.seconds, self.stops = 0.0, 0

    def resume(self) -> None:
        """Restore the loop from the last snapshot, if there is an intact one; otherwise log why training starts over.

        Raises `OodbenchError` if the snapshot does not fit the networks, after removing it.
        """
        self._store.bring_unfinished(self._path, self._is_further)
        if not self._path.is_file():
            return
        try:
            content = from_file(self._path)
            if (content["key"], content["torch"]) != (self._digest, torch.__version__):
                raise ValueError(f"it belongs to another training or was written by torch {content['torch']}")
            seconds, stops = float(content["seconds"]), int(content["stops"])
        except (OSError, *NOT_PLAIN) as error:
            logger.warning(f"Cannot resume from '{self._path}' ({error}): training starts from the beginning.")
            self.drop()
            return
        try:
            self._loop.load_state(content["state"])
        except NOT_PLAIN as error:  # other code under the same pinned version; the loop is now only partly restored
            self.drop()
            raise OodbenchError(
                f"'{self._path}' does not fit the networks of '{self._loop.job.checkpoint.recipe}' ({_line(error)}) "
                "and was removed. Run the same command again to train from the beginning."
            ) from error
        self.seconds, self.stops = seconds, stops + 1

    def pause(self, epoch_ended: bool) -> None:
        """Take a snapshot if one is due; call it between steps."""
        now = self._clock()
        if now - self._last >= (self._every.after_epoch if epoch_ended else self._every.within_epoch):
            self.take(now)

    def take(self, now: float) -> None:
        """Write the loop's state. If the recipe's state cannot be stored, log this once and take no more snapshots."""
        content: dict[str, Any] = {
            "key": self._digest,
            "torch": torch.__version__,
            "seconds": self.seconds + now - self._started,
            "stops": self.stops,
            "state": self._loop.state(),
        }
        try:
            write_atomically(self._path, to_bytes(content))
            self._last = now
        except NOT_PLAIN as error:
            logger.warning(f"Cannot take snapshots of the training of '{self._loop.job.checkpoint.recipe}': {error}.")
            self._last = float("inf")
        else:
            self._store.share_unfinished(self._path, self._facts())

    def restart(self, loop: TrainLoop) -> None:
        """Training starts again, with another loop: what was stored of the earlier one is deleted."""
        self._loop = loop
        self.drop()

    def drop(self) -> None:
        """Delete the snapshot, at the end of the training."""
        self._store.drop_unfinished(self._path)

    def _facts(self) -> dict[str, Any]:
        """What another machine needs to know to decide whether it can use a snapshot."""
        return {
            "done": [self._loop.epoch, self._loop.passed],
            "torch": torch.__version__,
            "device": self._loop.labels.device.type,
        }

    def _is_further(self, facts: Mapping[str, Any]) -> bool:
        """Whether another machine's snapshot can be resumed here and is ahead of the local one."""
        local = self._facts()
        if any(facts.get(name) != local[name] for name in ("torch", "device")):
            return False
        try:
            state = from_file(self._path)["state"]
            return bool(facts["done"] > [state["epoch"], state["passed"]])
        except (OSError, *NOT_PLAIN):
            return True


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
