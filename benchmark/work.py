"""Where jobs are done: one process's store, data, device and loaded networks."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import torch

from oodbench.benchmark import extract, parts, scoring, training, tuning, weights
from oodbench.benchmark.contract import Classifier, ImageSet
from oodbench.benchmark.data import Library
from oodbench.benchmark.errors import DataError, StoreError, UserError
from oodbench.benchmark.extended import Classified
from oodbench.benchmark.files.folder import adopt_all
from oodbench.benchmark.jobs import (
    Checkpoint,
    ExtractJob,
    FitJob,
    ImportJob,
    Job,
    LookJob,
    Outputs,
    ScoreJob,
    SetRef,
    TrainJob,
    TuneJob,
    runs_network,
)
from oodbench.benchmark.locks import Locks
from oodbench.benchmark.loop import Tick
from oodbench.benchmark.memory import Peak, freed_is_kept
from oodbench.benchmark.provenance import made_now
from oodbench.benchmark.registry import registry
from oodbench.benchmark.setups import Setup
from oodbench.benchmark.specs import create, parse_set, parse_spec
from oodbench.benchmark.store import Store

CHECKPOINTS_HELD = 2
"""Networks kept in memory; jobs come sorted by checkpoint."""

CLASSIFIED_HELD = 8
"""Logits with their labels, likewise; the arrays are memory-mapped."""

MISFIT = "Error(s) in loading state_dict"
"""How torch begins when weights do not fit a network."""


class Bench:
    """Does jobs, one at a time."""

    def __init__(
        self,
        store: Store,
        library: Library,
        device: torch.device,
        cell_timeout: float = 0.0,
        setup: Setup | None = None,
    ) -> None:
        self.setup = setup
        self.store = store
        self.cell_timeout = cell_timeout
        """Seconds that a detector may take to tune, fit or score one set; 0 for as long as it likes."""
        self.library = library
        self.device = device
        self.missed: dict[str, Exception] = {}
        """Why a set's pass did not make what a detector was to keep of its maps, by job."""
        self.scored: set[str] = set()
        """Score jobs that another has done with its own (`ScoreJob.others`) and whose turn is still to come."""
        self._classifiers: dict[str, Classifier] = {}
        self._classified: dict[str, Classified] = {}
        self._started, self._peak = time.perf_counter(), Peak(device)

    def do(self, job: Job, tick: Tick) -> None:
        """Do one job; its artifacts are in the store afterwards."""
        self._started, self._peak = time.perf_counter(), Peak(self.device)
        work: dict[type[Job], Callable[..., Any]] = {
            TrainJob: training.train,
            ImportJob: weights.import_weights,
            ExtractJob: parts.extract,
            LookJob: extract.look,
            TuneJob: tuning.tune,
            FitJob: scoring.fit,
            ScoreJob: scoring.score,
        }
        try:
            with freed_is_kept() if runs_network(job) else nullcontext():
                work[type(job)](self, job, tick)
        except RuntimeError as error:
            if MISFIT not in str(error):
                raise
            raise self._misfit(job) from error

    def _misfit(self, job: Job) -> StoreError:
        """Set aside the checkpoint that a job read and whose weights are not those of the network; say so."""
        read = job.given if isinstance(job, TrainJob) else getattr(job, "checkpoint", None)
        if read is None:
            return StoreError(f"Cannot {job.title}: weights do not fit their network.")
        target = self.store.set_aside(read.key)
        return StoreError(
            f"The weights in '{read.key.path}' do not fit the networks of recipe '{read.recipe}' with backbone "
            f"'{read.backbone}': moved to '{target}'. Run the same command again to train anew; if a plug-in's source "
            "has changed, raise its pinned `version`."
        )

    def images(self, data: SetRef) -> ImageSet:
        """The images that a job names. Raises `DataError` where they are not those that it was planned for."""
        images = self.library.part(parse_set(data.set), data.part, data.limit)
        if data.checksum and images.checksum != data.checksum:
            raise DataError(
                f"{data} is on this machine not what the run was planned with: SHA-256 {images.checksum[:12]} in place "
                f"of {data.checksum[:12]}. Give every machine the same files with --data-dir."
            )
        return images

    def labels(self, data: SetRef) -> np.ndarray:
        """Their labels."""
        labels = self.images(data).labels
        if labels is None:
            raise UserError(f"{data} has no labels, which training needs.")
        return labels

    def classified(self, outputs: Outputs) -> Classified:
        """Labelled images as a checkpoint's classifier sees them; the last few are held."""
        held = self._classified
        if outputs.logits.digest not in held:
            while len(held) >= CLASSIFIED_HELD:
                held.pop(next(iter(held)))
            logits = self.store.load_array(outputs.logits)
            held[outputs.logits.digest] = Classified(logits, self.labels(outputs.data))
        return held[outputs.logits.digest]

    def classifier(self, checkpoint: Checkpoint) -> Classifier:
        """The trained classifier of a checkpoint."""
        held = self._classifiers
        if checkpoint.key.digest not in held:
            while len(held) >= CHECKPOINTS_HELD:
                held.pop(next(iter(held)))
            networks = training.load_networks(self, checkpoint)
            blocks = create("backbone", parse_spec(checkpoint.backbone)).blocks
            held[checkpoint.key.digest] = Classifier(networks["classifier"], checkpoint.num_classes, blocks)
        return held[checkpoint.key.digest]

    def about(self, job: Job, earlier: float = 0.0, **more: object) -> dict[str, object]:
        """What the side file of a job's artifacts says besides their key; `earlier` seconds went by before a stop."""
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


def open_bench(setup: Setup, say: Callable[[str], None], device: str = "") -> Bench:
    """Set up this process for work: plug-ins, threads, device (the setup's, unless one is named), store and data."""
    for file in setup.plugins:
        registry.load_file(file)
    adopt_all(setup.folders)
    torch.set_num_threads(setup.threads)
    store, library = _store(setup, say)
    return Bench(store, library, choose_device(device or setup.device), setup.cell_timeout, setup)


def _store(setup: Setup, say: Callable[[str], None]) -> tuple[Store, Library]:
    """The store and the data, which may come from a store that machines share."""
    cache, data_dir, decoded, skip = setup.cache, setup.data_dir, setup.cache / "data", setup.skip_bad_images
    if not setup.store:
        return Store(cache, say), Library(data_dir, decoded, skip)
    from oodbench.benchmark.files.staged import Staged
    from oodbench.benchmark.remote import Remote
    from oodbench.benchmark.shared_store import SharedStore

    remote = Remote(setup.store)
    remote.refuse_folder(cache)
    remote.refuse_unwritable()
    staged = Staged(remote, data_dir, Locks(decoded, say), say)
    return SharedStore(cache, remote, say), Library(data_dir, decoded, skip, staged)


def choose_device(name: str) -> torch.device:
    """'auto' is CUDA or MPS where there is one, else the CPU; a device that is not there is an error."""
    available: dict[str, bool] = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, there in available.items() if there))
    kind = name.partition(":")[0]
    if kind not in available:
        raise UserError(f"Unknown device '{name}'. Choose auto, cpu, cuda or mps.")
    if not available[kind]:
        raise UserError(
            f"Device '{name}' is not available: this torch sees no {kind.upper()} device. Use --device cpu."
        )
    return torch.device(name)
