"""Snapshots of a training under way: a run that is stopped goes on from the last one, bit for bit on the same machine.

cache/unfinished/READABLE-NAME-0123456789ab.safetensors     one file, replaced whole, gone when the training ends
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from oodbench.benchmark.errors import OodbenchError
from oodbench.benchmark.plan.jobs import TrainJob
from oodbench.benchmark.stages.train_loop import TrainLoop
from oodbench.benchmark.store.atomic import slug, write_atomically
from oodbench.benchmark.store.store import UNFINISHED, Store
from oodbench.benchmark.store.tensor_file import NOT_PLAIN, from_file, to_bytes

logger = logging.getLogger(__name__)

AFTER_EPOCH = 20.0
"""Seconds since the last one after which the end of an epoch takes a snapshot: a short epoch is cheap to repeat."""

WITHIN_EPOCH = 600.0
"""Seconds after which one is taken in the middle of an epoch."""


class Snapshots:
    """The snapshots of one job. `seconds` have been spent on it by processes that were stopped, `stops` of them."""

    def __init__(
        self, store: Store, job: TrainJob, loop: TrainLoop, clock: Callable[[], float] = time.monotonic
    ) -> None:
        key = job.checkpoint.key
        self._path = store.root / UNFINISHED / f"{slug(key.label)}-{key.digest[:12]}.safetensors"
        self._store, self._digest, self._loop, self._clock = store, key.digest, loop, clock
        self._started = self._last = clock()
        self.seconds, self.stops = 0.0, 0

    def resume(self) -> None:
        """Put the loop where the last snapshot was taken, if there is one and it is whole."""
        self._store.bring_unfinished(self._path, self._is_further)
        if not self._path.is_file():
            return
        try:
            kept = from_file(self._path)
            if (kept["key"], kept["torch"]) != (self._digest, torch.__version__):
                raise ValueError(f"it was made for another training or by torch {kept['torch']}")
            seconds, stops = float(kept["seconds"]), int(kept["stops"])
        except (OSError, *NOT_PLAIN) as error:
            logger.warning(f"'{self._path}' cannot be resumed from ({error}): training starts from the beginning.")
            self.drop()
            return
        try:
            self._loop.load_state(kept["state"])
        except NOT_PLAIN as error:  # a pinned version with other code: the loop is half changed by now
            self.drop()
            raise OodbenchError(
                f"'{self._path}' does not fit the networks of '{self._loop.job.checkpoint.recipe}' ({_line(error)}) "
                "and was removed. Run the same command again to train anew."
            ) from error
        self.seconds, self.stops = seconds, stops + 1

    def pause(self, epoch_ended: bool) -> None:
        """Take a snapshot if it is time for one."""
        now = self._clock()
        if now - self._last < (AFTER_EPOCH if epoch_ended else WITHIN_EPOCH):
            return
        self.take(now)

    def take(self, now: float) -> None:
        """Write the loop's state; a recipe whose state is no plain data cannot be resumed, which is said once."""
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
            logger.warning(f"The training of '{self._loop.job.checkpoint.recipe}' takes no snapshots: {error}.")
            self._last = float("inf")
        else:
            self._store.share_unfinished(self._path, self._facts())

    def drop(self) -> None:
        """Remove the snapshot: the training has ended."""
        self._store.drop_unfinished(self._path)

    def _facts(self) -> dict[str, Any]:
        """What another machine must know of a snapshot to want it."""
        return {
            "done": [self._loop.epoch, self._loop.passed],
            "torch": torch.__version__,
            "device": self._loop.data.device.type,
        }

    def _is_further(self, facts: Mapping[str, Any]) -> bool:
        """Whether another machine's snapshot fits this one and goes beyond the one that is here."""
        ours = self._facts()
        if any(facts.get(name) != ours[name] for name in ("torch", "device")):
            return False
        try:
            state = from_file(self._path)["state"]
            return bool(facts["done"] > [state["epoch"], state["passed"]])
        except (OSError, *NOT_PLAIN):
            return True


def _line(error: Exception) -> str:
    return " ".join(str(error).split())
