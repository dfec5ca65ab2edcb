"""The configuration that opens the same job context in every process; can be imported without torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from oodbench.benchmark.data.pictures.view import PictureView
from oodbench.benchmark.plan.used_code import PlannedCode


@dataclass(frozen=True)
class WorkerConfig:
    """Everything that is needed to open the same job context in another process, as plain data."""

    cache: Path
    data_dir: Path
    device: str
    threads: int
    skip_bad_images: bool = False
    cell_timeout: float = 0.0
    plugins: tuple[Path, ...] = ()
    """Plug-in files to load."""
    folders: tuple[str, ...] = ()
    """Users' image folders and lists that serve as data sets, as `folder:PATH` and `list:FILE.txt`."""
    networks: tuple[str, ...] = ()
    """Functions in users' files that serve as backbones, as `path/net.py:make`."""
    store: str = ""
    """The URL of a store that machines share; empty if there is none."""
    view: PictureView = field(default_factory=PictureView)
    """How networks get pictures of their own sizes."""
    tensorboard: bool = False
    """Whether trainings write their losses for TensorBoard."""
    code: PlannedCode = field(default_factory=PlannedCode)
    """The code that the run was planned with."""
