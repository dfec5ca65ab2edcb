"""Measures how pictures are decoded in threads and in processes, alone and beside a thread that keeps Python busy.

    python perf/decoders.py [--pictures 3000] [--workers 1,2,4,16] [--operations 6000]

JPEGs of 500 x 375 are made (perf/many_pictures.py) and brought to 224 x 224, as a pass does, in blocks of 64. Workers
are threads of this process, as in a pass, or forked processes, which send nothing back: what it would take to send the
pixels is not included. Beside them, this thread waits for a block and then runs so many small torch operations, as for
a network whose forward pass a GPU computes; each gives Python's lock away and takes it again. Printed are wall-clock
seconds, and pictures a second beside the operations. Not for Windows.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
from collections.abc import Callable
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import torch
from _spent import spent
from many_pictures import VIEW, make

from oodbench.benchmark.data.files.native.open_split import streamed_split
from oodbench.benchmark.data.pictures.source import ListedFiles
from oodbench.benchmark.data.pictures.streamed import StreamedImages
from oodbench.benchmark.plugins.pictures import LazyImages

BLOCK = 64
IMAGES: list[LazyImages] = []
"""The set, which forked processes inherit."""


def decode(rows: np.ndarray) -> None:
    """Decode some pictures of the set, and drop them."""
    (images,) = IMAGES
    assert isinstance(images, StreamedImages)
    for row in rows:
        images.decode(int(row))


def one_by_one(pool: Executor, blocks: list[np.ndarray]) -> list[list[Callable[[], None]]]:
    """Tasks of one picture, as a pass gives them to its threads; what waits for each, by block."""
    return [[pool.submit(decode, block[place : place + 1]).result for place in range(len(block))] for block in blocks]


def by_block(pool: Executor, blocks: list[np.ndarray]) -> list[list[Callable[[], None]]]:
    """Tasks of one block, as torch's DataLoader gives them to its processes."""
    return [[pool.submit(decode, block).result] for block in blocks]


@torch.inference_mode()
def operate(count: int) -> None:
    """Run small operations one after the other."""
    values = torch.zeros(8)
    for _ in range(count):
        values = values + 1


def through(kind: str, workers: int, blocks: list[np.ndarray], operations: int) -> None:
    """Decode all blocks, with operations after each."""
    fork = multiprocessing.get_context("fork")
    pool = ThreadPoolExecutor(workers) if kind == "threads" else ProcessPoolExecutor(workers, fork)
    with pool:
        for waits in (one_by_one if kind == "threads" else by_block)(pool, blocks):
            for wait in waits:
                wait()
            operate(operations)


def main() -> None:
    """Print a row per kind and number of workers."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=3000)
    parser.add_argument("--workers", default="1,2,4,16")
    parser.add_argument("--operations", type=int, default=6000)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "set")
        folder.mkdir()
        make(folder, asked.pictures)
        files = ListedFiles(folder, sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.jpg")))
        images = streamed_split("many", files, (), VIEW, Path(name, "cache")).images.images
        assert isinstance(images, StreamedImages)
        IMAGES.append(images)
        blocks = np.split(np.arange(asked.pictures), range(BLOCK, asked.pictures, BLOCK))
        _, alone = spent(lambda: [operate(asked.operations) for _ in blocks])
        print(f"{asked.pictures:,} pictures; {asked.operations:,} operations a block alone: {alone:.2f} s")
        print("| workers | decoding, s | beside the operations, s | pictures a second |\n| :-- | --: | --: | --: |")
        for kind in ("threads", "processes"):
            for workers in map(int, asked.workers.split(",")):
                _, bare = spent(partial(through, kind, workers, blocks, 0))
                _, beside = spent(partial(through, kind, workers, blocks, asked.operations))
                print(f"| {workers} {kind} | {bare:.2f} | {beside:.2f} | {asked.pictures / beside:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
