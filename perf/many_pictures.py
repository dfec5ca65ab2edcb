"""Measures a set of many JPEGs: memory, indexing against decoding alone, and a pass against its parts.

    python perf/many_pictures.py 1000 10000 100000

For each number, in a temporary folder: so many JPEGs are made, each a differently cut and coloured part of one picture,
500 x 375 pixels. A fresh process then decodes all of them (two threads a core would gain nothing: as many threads as
cores), indexes the set, and passes it through a small network at 224 x 224, in blocks by the rule. Printed are images a
second of decoding and of indexing and their ratio, CPU seconds of the pass over those of decode + resize + forward, and
the peak of resident memory.
"""

from __future__ import annotations

import io
import json
import os
import resource
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from _spent import spent
from PIL import Image
from torch import nn

from oodbench.benchmark.data.files.native.open_split import streamed_split
from oodbench.benchmark.data.pictures.block import block_of
from oodbench.benchmark.data.pictures.source import ListedFiles
from oodbench.benchmark.data.pictures.view import PictureView
from oodbench.benchmark.plugins.pictures import Preprocessing, in_blocks
from oodbench.benchmark.stages.extract import padded
from oodbench.benchmark.stages.training.train_loop import floats
from oodbench.benchmark.store.cores import usable_cores

SIZE = (500, 375)
VIEW = PictureView(Preprocessing(256, (224, 224)), pixel_cache=0)
SAMPLE = 400
"""Pictures on which the parts of a pass are measured alone."""


def make(folder: Path, count: int) -> None:
    """Write JPEGs, 1,000 to a folder."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (40, 50, 3), dtype=np.uint8)
    base = np.asarray(Image.fromarray(coarse).resize((900, 700), Image.Resampling.BICUBIC), np.int16)
    base = np.clip(base + random.integers(-12, 13, base.shape), 0, 255).astype(np.uint8)

    def write(number: int) -> None:
        own = np.random.default_rng(number)
        top, left = own.integers(0, 700 - SIZE[1]), own.integers(0, 900 - SIZE[0])
        cut = base[top : top + SIZE[1], left : left + SIZE[0]] ^ own.integers(0, 32, 3, dtype=np.uint8)
        Image.fromarray(cut).save(folder / f"{number // 1000:03d}" / f"{number % 1000:03d}.jpg", quality=50)

    for part in range(-(-count // 1000)):
        (folder / f"{part:03d}").mkdir()
    with ThreadPoolExecutor(usable_cores()) as pool:
        list(pool.map(write, range(count)))


@torch.inference_mode()
def measure(folder: Path, cache: Path) -> dict[str, float]:
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg"))
    files = ListedFiles(folder, names)
    network = nn.Sequential(nn.Conv2d(3, 32, 7, 4), nn.ReLU(), nn.Conv2d(32, 64, 3, 2), nn.AdaptiveAvgPool2d(1))
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    block = block_of((3, 224, 224), str(VIEW.preprocessing))

    def decode(name: str) -> Image.Image:
        return Image.open(io.BytesIO((folder / name).read_bytes())).convert("RGB")

    def decode_all() -> None:
        with ThreadPoolExecutor(usable_cores()) as pool:
            for start in range(0, len(names), 1024):
                for _ in pool.map(lambda name: decode(name).size, names[start : start + 1024]):
                    pass

    assert VIEW.preprocessing is not None
    some = names[:: max(1, len(names) // SAMPLE)]
    inputs = [np.asarray(VIEW.preprocessing.apply(decode(name))).transpose(2, 0, 1) for name in some[:block]]
    prepared = np.stack(inputs).transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2)
    forward = lambda: [network(floats(torch.from_numpy(prepared))) for _ in range(0, len(some), block)]  # noqa: E731
    forward()
    _, decoding = spent(decode_all)
    _, indexing = spent(lambda: streamed_split("many", files, (), VIEW, cache))
    prepare_cpu, _ = spent(lambda: [np.asarray(VIEW.preprocessing.apply(decode(name))) for name in some])  # type: ignore[union-attr]
    forward_cpu, _ = spent(forward)
    images = streamed_split("many", files, (), VIEW, cache).images

    def run() -> None:
        with closing(in_blocks(images.images, block, torch.get_num_threads())) as blocks:
            for rows in blocks:
                network(floats(torch.from_numpy(padded(rows, block))))

    pass_cpu, pass_wall = spent(run)
    return {
        "images": len(names),
        "decoded a second": len(names) / decoding,
        "indexed a second": len(names) / indexing,
        "indexing / decoding": decoding / indexing,
        "passed a second": len(names) / pass_wall,
        "CPU of pass / parts": pass_cpu / len(names) * len(some) / (prepare_cpu + forward_cpu),
        "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
    }


def main() -> None:
    if sys.argv[1:2] == ["--measure"]:
        print(json.dumps(measure(Path(sys.argv[2]), Path(sys.argv[3]))))
        return
    for count in map(int, sys.argv[1:] or ["1000"]):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name, "set")
            folder.mkdir()
            make(folder, count)
            command = [sys.executable, __file__, "--measure", str(folder), str(Path(name, "cache"))]
            out = subprocess.run(command, check=True, capture_output=True, text=True, env={**os.environ}).stdout
            print(", ".join(f"{key} {value:,.2f}" for key, value in json.loads(out).items()), flush=True)


if __name__ == "__main__":
    main()
