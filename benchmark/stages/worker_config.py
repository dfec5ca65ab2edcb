"""What other processes are told of a run: plain data, read without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class WorkerConfig:
    """What it takes to open the same bench in another process: plain data."""

    cache: Path
    data_dir: Path
    device: str
    threads: int
    skip_bad_images: bool = False
    cell_timeout: float = 0.0
    plugins: tuple[Path, ...] = ()
    """Files of plug-ins that are loaded."""
    folders: tuple[Path, ...] = ()
    """Users' own images that are data sets (`folder:PATH`)."""
    store: str = ""
    """The URL of a store that machines share; none if empty."""
