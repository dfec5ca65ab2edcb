"""The job context: the store, data, device and loaded networks that the jobs of one process share."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from functools import lru_cache

import numpy as np
import torch
from threadpoolctl import ThreadpoolController

from oodbench.benchmark.data.library import Library
from oodbench.benchmark.errors import DataError, UserError
from oodbench.benchmark.metrics.extended import ClassifiedImages
from oodbench.benchmark.plan.jobs import Checkpoint, Job, Outputs, SetRef
from oodbench.benchmark.plan.used_code import refuse_other_code
from oodbench.benchmark.plan.weights.file import OUTPUTS
from oodbench.benchmark.plugins.dataset import ImageSet
from oodbench.benchmark.plugins.inputs import Classifier
from oodbench.benchmark.plugins.specs import parse_set
from oodbench.benchmark.records.environment import made_now
from oodbench.benchmark.stages import networks as networks_module
from oodbench.benchmark.stages.detecting.shared_results import SharedResults
from oodbench.benchmark.stages.detecting.stored_results import StoredResults
from oodbench.benchmark.stages.memory import Peak
from oodbench.benchmark.stages.worker_config import WorkerConfig
from oodbench.benchmark.store.store import Key, Store

Tick = Callable[[int], None]
"""Progress callback: called with the number of images processed since the last call."""

THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS")
"""Read by numerical libraries when they are loaded, which may be in the middle of a job."""

CHECKPOINTS_HELD = 2
"""Checkpoints whose networks stay in memory. Jobs are sorted by checkpoint, so that few suffice."""

CLASSIFIED_HELD = 8
"""Sets whose logits and labels stay loaded; the arrays are memory-mapped."""


class JobContext:
    """What the jobs of one process work with; jobs use it one at a time."""

    def __init__(
        self,
        store: Store,
        library: Library,
        device: torch.device,
        cell_timeout: float = 0.0,
        config: WorkerConfig | None = None,
    ) -> None:
        self.config = config
        self.store = store
        self.cell_timeout = cell_timeout
        """Seconds that a detector may take to tune, fit or score one set; 0 for no limit."""
        self.library = library
        self.device = device
        self.failed_reductions: dict[str, Exception] = {}
        """Errors that detectors raised while a pass reduced the maps, by id of the `ReduceMapsJob`."""
        self.whole_head_notes: dict[str, str] = {}
        """Notes on the order of a given head's outputs, by digest of the logits of ID test images."""
        self.warned: set[str] = set()
        """Notes of cells that were logged as warnings."""
        self.scored: set[str] = set()
        """Ids of score jobs that were done ahead of their turn, together with another one (`ScoreJob.others`)."""
        self.chosen_scores: dict[tuple[str, str, str], Key] = {}
        """Scores with chosen settings, by the detector with these and the digests of a set's logits and features."""
        self.refused: dict[str, str] = {}
        """Why settings that were tried do not fit the network, by digest of the first scores that are missing."""
        self.shared_results = SharedResults(stored=StoredResults(store.root))
        """Statistics of training splits that several detectors need."""
        self._classifiers: dict[str, Classifier] = {}
        self._classified: dict[str, ClassifiedImages] = {}
        self._started, self._peak = time.perf_counter(), Peak(device)

    def use_threads(self) -> None:
        """Give this process the run's number of threads, which another run or a plug-in may have changed."""
        if self.config is not None:
            use_threads(self.config.threads)

    def begin(self) -> None:
        """Start the clock and the memory meter of a job, which computes on the run's number of threads."""
        self.use_threads()
        self._started, self._peak = time.perf_counter(), Peak(self.device)

    def images(self, data: SetRef) -> ImageSet:
        """The images that a job refers to. Raises `DataError` if they are not those that the run was planned with."""
        images = self.library.part(parse_set(data.set), data.part, data.limit)
        if data.checksum and images.checksum != data.checksum:
            raise DataError(
                f"{data} differs on this machine from what the run was planned with: its SHA-256 is "
                f"{images.checksum[:12]}, expected {data.checksum[:12]}. Give every machine the same files with "
                "--data-dir."
            )
        return images

    def labels(self, data: SetRef) -> np.ndarray:
        """The labels of the images that a job refers to. Raises `UserError` if there are none."""
        labels = self.images(data).labels
        if labels is None:
            raise UserError(f"{data} has no labels, which training needs.")
        return np.asarray(data.label_outputs)[labels] if data.label_outputs else labels

    def classified(self, outputs: Outputs) -> ClassifiedImages:
        """The logits and labels of a set under a checkpoint; the most recent ones stay loaded."""
        held = self._classified
        if outputs.logits.digest not in held:
            while len(held) >= CLASSIFIED_HELD:
                held.pop(next(iter(held)))
            logits = self.store.load_array(outputs.logits)
            held[outputs.logits.digest] = ClassifiedImages(logits, self.labels(outputs.data))
        return held[outputs.logits.digest]

    def classifier(self, checkpoint: Checkpoint) -> Classifier:
        """The trained classifier of a checkpoint; the most recent ones stay in memory."""
        held = self._classifiers
        if checkpoint.key.digest not in held:
            while len(held) >= CHECKPOINTS_HELD:
                held.pop(next(iter(held)))
            held[checkpoint.key.digest] = self._load_classifier(checkpoint)
        return held[checkpoint.key.digest]

    def _load_classifier(self, checkpoint: Checkpoint) -> Classifier:
        if checkpoint.recipe == OUTPUTS:
            return networks_module.load_head_only(self.store, self.device, checkpoint)
        networks = networks_module.load_networks(self.store, self.device, checkpoint)
        return networks_module.as_classifier(networks["classifier"], checkpoint)

    def about(self, job: Job, earlier: float = 0.0, **more: object) -> dict[str, object]:
        """What the side file of a job's artifacts says besides their key; `earlier`: seconds that others spent for it.

        Raises `PluginError` if a plug-in's code is not that of the plan any more, so that nothing is stored.
        """
        refuse_other_code(job)
        return {
            "title": job.title,
            "seconds": round(earlier + time.perf_counter() - self._started, 3),
            "device": str(self.device),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            **self._peak.bytes(),
            **made_now(),
            **more,
        }


def use_threads(count: int) -> None:
    """Make every numerical library of this process compute on so many threads, even on fewer cores.

    Not only torch: the last bits of NumPy's products and decompositions change with the threads of its BLAS, of which
    there are by default as many as cores.
    """
    os.environ.update(dict.fromkeys(THREAD_VARIABLES, str(count)))
    _thread_pools(len(sys.modules)).limit(limits=count)
    torch.set_num_threads(count)


@lru_cache(maxsize=1)
def _thread_pools(modules: int) -> ThreadpoolController:
    """The thread pools of the libraries that are loaded; searched for again when `modules` have become more."""
    import scipy.linalg  # noqa: F401  # loaded in a job, its OpenBLAS would have no more threads than cores

    return ThreadpoolController()
