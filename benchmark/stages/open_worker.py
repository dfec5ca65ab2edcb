"""Opens a job context in this process: loads plug-ins, sets threads and device, opens store and data."""

from __future__ import annotations

import torch

from oodbench.benchmark.data.library import Library
from oodbench.benchmark.data.own_sets import adopt_all
from oodbench.benchmark.errors import UserError
from oodbench.benchmark.plugins.networks.places import adopt_backbones
from oodbench.benchmark.plugins.registry import registry
from oodbench.benchmark.stages.context import JobContext, use_threads
from oodbench.benchmark.stages.worker_config import WorkerConfig
from oodbench.benchmark.store.locks import Locks
from oodbench.benchmark.store.store import Store


def open_context(config: WorkerConfig, device: str = "") -> JobContext:
    """Set up this process for a run and return its job context; `device` overrides that of the configuration."""
    for file in config.plugins:
        registry.load_file(file)
    adopt_all(config.folders)
    adopt_backbones(config.networks)
    use_threads(config.threads)
    store, library = _store(config)
    return JobContext(store, library, choose_device(device or config.device), config.cell_timeout, config)


def _store(config: WorkerConfig) -> tuple[Store, Library]:
    """The store and the data library, which may both use a store that machines share."""
    cache, data_dir, decoded, skip = config.cache, config.data_dir, config.cache / "data", config.skip_bad_images
    if not config.store:
        return Store(cache), Library(data_dir, decoded, skip, view=config.view)
    from oodbench.benchmark.data.files.staging import StagedFiles
    from oodbench.benchmark.store.remote import Remote
    from oodbench.benchmark.store.shared import SharedStore

    remote = Remote(config.store)
    remote.refuse_folder(cache)
    remote.refuse_unwritable()
    staged = StagedFiles(remote, data_dir, Locks(decoded))
    return SharedStore(cache, remote), Library(data_dir, decoded, skip, staged, view=config.view)


def choose_device(name: str) -> torch.device:
    """The torch device of a name; 'auto' is CUDA or MPS if available, else the CPU. `UserError` if unavailable."""
    available: dict[str, bool] = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if name == "auto":
        return torch.device(next(kind for kind, usable in available.items() if usable))
    kind, numbered, number = name.partition(":")
    if kind not in available:
        raise UserError(f"Unknown device '{name}'. Choose auto, cpu, cuda or mps.")
    if not available[kind]:
        raise UserError(
            f"Device '{name}' is not available: torch finds no {kind.upper()} device here. Use --device cpu."
        )
    count = torch.cuda.device_count() if kind == "cuda" else 1
    if numbered and not (number.isascii() and number.isdecimal() and int(number) < count):
        known = "0 only" if count == 1 else f"0 to {count - 1}"
        raise UserError(
            f"Device '{name}' is not available: the number of a {kind} device here is {known}. Use --device {kind}."
        )
    return torch.device(name)
