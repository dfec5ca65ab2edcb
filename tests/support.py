"""Helpers that several test files share: the command line, tiny suites and runs, jobs, images, and files on disk.

Fixtures are in conftest.py. A test file keeps what only it needs.
"""

from __future__ import annotations

import ast
import csv
import gc
import io
import json
import os
import struct
import types
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from torch import Tensor, device, nn

from oodbench.benchmark.api import Prepared, prepare
from oodbench.benchmark.cli import main
from oodbench.benchmark.data.library import Library
from oodbench.benchmark.data.outputs import GivenArrays, GivenHead, GivenOutputs, write_outputs
from oodbench.benchmark.plan.jobs import Checkpoint, SetRef, TrainJob
from oodbench.benchmark.plan.suite import Schedule
from oodbench.benchmark.plugins.dataset import ImageSet
from oodbench.benchmark.records.record import Record
from oodbench.benchmark.records.run import StoredRun
from oodbench.benchmark.stages.context import JobContext
from oodbench.benchmark.store.store import Key, Store
from oodbench.benchmark.views.plots import draw as plots
from oodbench.benchmark.views.summary import Summary, summary_of

ROOT = Path(__file__).resolve().parents[1]
"""The repository."""

T = TypeVar("T")

TINY_BACKBONE = "small_cnn[hidden=4,width=2]"
"""A network that trains within a second."""


# Shares of repeated tests

SHARES = 4
"""Number of shares that the repeats of slow tests are divided into."""


def share(repeats: Iterable[T], chosen: str | None = None) -> list[T]:
    """The repeats of a slow test to run, such as seeds of kills: every fourth, from the first on.

    The environment variable OODBENCH_TEST_SHARE, or `chosen`, names another share ("1" to "4"), or "all". It is not
    drawn, so that a commit passes or fails whenever it is tested.
    """
    named = os.environ.get("OODBENCH_TEST_SHARE", "1") if chosen is None else chosen
    names = [str(number + 1) for number in range(SHARES)]
    if named == "all":
        return list(repeats)
    if named not in names:
        raise ValueError(f"OODBENCH_TEST_SHARE is {named!r}; expected {', '.join(names)} or all.")
    return list(repeats)[names.index(named) :: SHARES]


# The command line


def bench(*arguments: object, env: Mapping[str, str] | None = None) -> Result:
    """Run the command line in this process, with the text of each argument; unexpected exceptions fail the test."""
    return CliRunner().invoke(main, [str(argument) for argument in arguments], env=env, catch_exceptions=False)


# Names of tests


def short_id(value: object) -> str:
    """A parameter in a test's name, given as `ids`: the name of a class or check, and nothing for long messages."""
    if isinstance(value, type):
        return value.__name__
    return str(value) if str(value).startswith("check_") else ""


def in_repository(path: Path) -> str:
    """A file's path in the repository, for the name of a test or a message."""
    return path.relative_to(ROOT).as_posix()


# Sources


@cache
def syntax(path: Path) -> ast.Module:
    """The syntax tree of a source file, which several tests look at."""
    return ast.parse(path.read_text(encoding="utf-8"))


def folders(paths: Iterable[Path]) -> list[Path]:
    """The folders of files: a test for each folder, as there are hundreds of files."""
    return sorted({path.parent for path in paths})


# Suites and runs


def tiny_suite(
    matrix: str,
    *,
    backbone: str = TINY_BACKBONE,
    training: str = "epochs = 1",
    title: str = "",
    more: str = "",
    threads: int = 1,
) -> str:
    """The text of a suite with a tiny network, trained for one epoch, given what is tested on what (`[[id]]`).

    `training`: the lines of `[training]`; `more`: further sections.
    """
    lines = ["schema = 1", *([f'title = "{title}"'] if title else [])]
    lines += ["[protocol]", f'backbone = "{backbone}"', 'recipe = "cross_entropy"', f"threads = {threads}"]
    lines += ["[training]", training]
    return "\n".join([*lines, *([more.strip()] if more else []), matrix.strip(), ""])


def write_suite(folder: Path, matrix: str, *, name: str = "tiny", **options: Any) -> Path:
    """Write `tiny_suite` to NAME.toml; runs of it are called NAME. `options`: as for `tiny_suite`."""
    path = folder / f"{name}.toml"
    path.write_text(tiny_suite(matrix, **options), encoding="utf-8")
    return path


def given_arrays(
    count: int, tag: str, *, ood: bool = False, names: bool = True, labels: bool = True, seed: int = 0
) -> GivenArrays:
    """Logits and features of `count` images of 4 classes under a network whose weights depend on the seed."""
    draw, head = np.random.default_rng([seed, count, *tag.encode()]), given_head(seed)
    means = np.abs(np.random.default_rng(9).normal(size=(4, 8))) * 2
    classes = np.arange(count) % 4
    features = np.maximum(draw.normal(size=(count, 8)) + (0 if ood else means[classes]), 0).astype(np.float32)
    return GivenArrays(
        count,
        logits=features @ head.weight.T + head.bias,
        features=features,
        labels=None if ood or not labels else classes,
        names=tuple(f"{tag}/{row}.png" for row in range(count)) if names else None,
    )


def given_head(seed: int = 0) -> GivenHead:
    """The head of that network."""
    means = np.abs(np.random.default_rng(9).normal(size=(4, 8))) * 2
    noise = np.random.default_rng(seed).normal(size=(4, 8)) / 10
    weight = (means - means.mean(axis=0) + noise).astype(np.float32)
    return GivenHead(weight, (-(weight * means).sum(axis=1) / 2).astype(np.float32))


def give_outputs(folder: Path, *, seed: int = 0, network: str = "", **changes: Any) -> GivenOutputs:
    """Write outputs of a small network on 'photos' against 'svhn' (far) and 'Places 365 (crop)' to a folder.

    `changes`: fields of `GivenOutputs` that replace those; and `names` and `labels` as for `given_arrays`.
    """
    options = {name: changes.pop(name) for name in ("names", "labels") if name in changes}
    parts = {"train": 120, "val": 40, "test": 80}
    given = GivenOutputs(
        source=folder,
        title=folder.name,
        id_set="photos",
        id={split: given_arrays(count, split, seed=seed, **options) for split, count in parts.items()},
        ood={name: given_arrays(60, name, seed=seed, ood=True, **options) for name in ("svhn", "Places 365 (crop)")},
        groups={"svhn": "far"},
        classes=("cat", "dog", "owl", "newt"),
        head=given_head(seed),
        network=network,
    )
    given = replace(given, **changes)
    write_outputs(folder, given)
    return given


def prepare_suite(suite: Path, detectors: str | Sequence[str] = "msp", **options: Any) -> Prepared:
    """Plan a suite's file on one thread of the CPU; results are stored in the folder `results` beside it by default.

    Without stability, unless asked for: most tests are about something else.
    """
    defaults: dict[str, Any] = {"suite": str(suite), "results": suite.parent / "results"}
    defaults |= {"threads": 1, "device": "cpu", "stability": False}
    return prepare(detectors, **{**defaults, **options})


def run_suite(
    suite: Path, detectors: str | Sequence[str] = "msp", plots_drawn: bool = False, **options: Any
) -> StoredRun:
    """Run a suite's file with the defaults of `prepare_suite`; without plots, unless asked for."""
    progress = options.pop("progress", None)
    with pytest.MonkeyPatch.context() as patch:
        (draw_plots if plots_drawn else draw_no_plots)(patch)
        return prepare_suite(suite, detectors, **options).start(progress)


DRAW = plots.draw
"""Draws the plots of a run."""


def draw_plots(patch: pytest.MonkeyPatch) -> None:
    """Let runs draw their plots, where they draw none."""
    patch.setattr(plots, "draw", DRAW)


def draw_no_plots(patch: pytest.MonkeyPatch) -> None:
    """Let runs draw no plots: they take longer than a tiny run."""
    patch.setattr(plots, "draw", lambda *_: [])


def tables_of(run_dir: Path) -> dict[str, bytes]:
    """The files that are the same in equal runs, by name; records.csv without times."""
    rows = [{**row, "seconds": ""} for row in csv_rows((run_dir / "records.csv").read_text(encoding="utf-8"))]
    files = {name: (run_dir / name).read_bytes() for name in ("table.csv", "table.md", "table.tex", "best.json")}
    return {**files, "records.csv": json.dumps(rows).encode()}


def summary_from(records: Sequence[Record], **info: Any) -> Summary:
    """The summary of records that are in no folder; `info`: content of `run.json`."""
    return summary_of(StoredRun(Path("nowhere"), info, list(records)))


def csv_rows(text: str) -> list[dict[str, str]]:
    """The rows of a CSV text with a header."""
    return list(csv.DictReader(io.StringIO(text)))


# Jobs and keys


def array_key(content: Any = 1, label: str = "an array", kind: str = "scores", extension: str = ".npy") -> Key:
    """The key of an artifact; `content` identifies it."""
    return Key(kind, extension, label, {"made of": content})


def train_job(
    recipe: str = "cross_entropy",
    backbone: str = TINY_BACKBONE,
    *,
    images: int,
    outliers: SetRef | None = None,
    schedule: Schedule,
    seed: int = 3,
    tag: str = "",
    **options: Any,
) -> TrainJob:
    """A training on `images` images of the set 'id', of 4 classes and 3x32x32; equal jobs may differ in `tag` only.

    `options`: further fields of `TrainJob`.
    """
    content = {"recipe": recipe, "backbone": backbone, "schedule": schedule, "seed": seed, "tag": tag}
    key = Key("checkpoint", ".safetensors", f"{recipe}-s{seed}", content)
    return TrainJob(
        title=f"train {recipe}",
        makes=(key,),
        checkpoint=Checkpoint(key, recipe, backbone, 4, (3, 32, 32)),
        train=SetRef("id", "train", images),
        outliers=outliers,
        schedule=schedule,
        seed=seed,
        **{"given": None, **options},
    )


class ContextOfSets(JobContext):
    """A job context with the given image sets."""

    def __init__(self, root: Path, sets: Mapping[str, ImageSet]) -> None:
        super().__init__(Store(root), Library(root), device("cpu"))
        self.sets = sets

    def images(self, data: SetRef) -> ImageSet:
        return self.sets[data.set]


# Images and files in the formats of data sets


def noise_images(count: int, seed: int = 0, shape: tuple[int, ...] = (3, 32, 32)) -> np.ndarray:
    """Random images, uint8 (count, *shape)."""
    images: np.ndarray = np.random.RandomState(seed).randint(0, 256, (count, *shape)).astype(np.uint8)
    return images


def encode_image(image: Image.Image | np.ndarray, form: str = "PNG", **options: Any) -> bytes:
    """An image file; `image`: an image, or its pixels as uint8 (H, W) or (H, W, 3)."""
    out = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(out, form, **options)
    return out.getvalue()


def idx_file(sizes: Sequence[int], body: bytes = b"") -> bytes:
    """A file in MNIST's format with these sizes in its header, which the body need not match."""
    return bytes([0, 0, 8, len(sizes)]) + struct.pack(f">{len(sizes)}I", *sizes) + body


def encode_idx(array: np.ndarray) -> bytes:
    """A uint8 array in MNIST's format."""
    return idx_file(array.shape, array.tobytes())


def safetensors_file(header: object, body: bytes = b"", length: int | None = None) -> bytes:
    """A safetensors file with this header, as bytes or as JSON, and a body and length that need not match it."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + body


# Files on disk


def artifact_files(folder: Path) -> list[str]:
    """Every file except the remembered checksums of data sets and the locks, which are not artifacts."""
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if not name.endswith(("data/checksums.json", ".lock")))


def leave_killed(cache: Path) -> list[Path]:
    """Create the files that a killed process leaves in a cache: a temporary file, an unfinished pass, and a lock."""
    left = [cache / name for name in ("scores/.a.npy.x1.tmp", ".pass-abc/logits.npy", "locks/job-0123.lock")]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
    return left


def flip_last_bit(path: Path) -> None:
    """Damage a file without changing its size."""
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def cut_last_byte(path: Path) -> None:
    """Truncate a file by one byte."""
    path.write_bytes(path.read_bytes()[:-1])


# Objects in memory


def reachable(*roots: object) -> Iterator[object]:
    """Every object reachable from `roots` through attributes, items, closures or slots, except through modules.

    A module's globals reach everything that was ever imported, whatever the harness passes to a detector.
    """
    seen: dict[int, object] = {}
    todo = list(roots)
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, type | types.ModuleType | str | bytes | int | float | None):
            continue
        seen[id(one)] = one
        yield one
        names = ("__globals__", "__builtins__") if isinstance(one, types.FunctionType) else ()
        hidden = {id(getattr(one, name)) for name in names}
        todo += [other for other in gc.get_referents(one) if id(other) not in hidden]
        if isinstance(one, np.ndarray):
            todo.append(one.base)
        elif not isinstance(one, Tensor | nn.Module) and type(one).__module__.startswith("oodbench"):
            public = [name for name in dir(one) if not name.startswith("__")]
            todo += [value for name in public if (value := _getattr_or_none(one, name)) is not None]


def _getattr_or_none(one: object, name: str) -> object:
    try:
        value: object = getattr(one, name)
    except Exception:  # properties may raise
        return None
    return value


# Reference implementations


def softmax(logits: np.ndarray) -> np.ndarray:
    """Probabilities over the last axis, in NumPy: independent of the product's torch code."""
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: np.ndarray = powers / powers.sum(axis=-1, keepdims=True)
    return probabilities
