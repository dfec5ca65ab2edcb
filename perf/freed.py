"""Measures the benefit of keeping freed memory for the next block of images (`memory.keep_freed_memory`).

    python perf/freed.py [--backbone "resnet18[width=32]"] [--blocks 8] [--repeats 3] [--train]

Blocks of 256 random images (3 x 32 x 32) go through a network on one thread, or with --train batches of 128 through a
cross-entropy step in float32: in processes that keep freed memory and in processes that do not, alternately. Seconds
are CPU seconds, with user and system time separately; the ratio is that of the medians.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
from contextlib import nullcontext

import torch

from oodbench.benchmark.data.pictures.block import BLOCK
from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.benchmark.stages import memory

WARM = 2
TRAINED = 128


def used() -> list[float]:
    """User and system CPU seconds, and page faults, of this process so far."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return [usage.ru_utime, usage.ru_stime, usage.ru_minflt]


def spent(backbone: str, blocks: int, train: bool) -> list[float]:
    """What `blocks` blocks take, after a few for warm-up."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    network = create("backbone", parse_spec(backbone)).build(10, (3, 32, 32)).train(train)
    images = torch.rand(TRAINED if train else BLOCK, 3, 32, 32)
    optimizer = torch.optim.SGD(network.parameters(), lr=1e-3)
    before = used()
    for number in range(WARM + blocks):
        if number == WARM:
            before = used()
        with torch.set_grad_enabled(train):
            loss = network(images).logsumexp(dim=1).mean()
        if train:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return [after - earlier for after, earlier in zip(used(), before, strict=True)]


def main() -> None:
    """Print one line with and one without keeping freed memory, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18[width=32]")
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--child", choices=["kept", "returned"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        with memory.keep_freed_memory() if options.child == "kept" else nullcontext():
            print(json.dumps(spent(options.backbone, options.blocks, options.train)))
        return
    results: dict[str, list[list[float]]] = {"returned": [], "kept": []}
    for _ in range(options.repeats):
        for mode, runs in results.items():
            command = [sys.executable, __file__, *sys.argv[1:], "--child", mode]
            runs.append(json.loads(subprocess.run(command, capture_output=True, check=True).stdout))
    totals = {}
    for mode, runs in results.items():
        user, system, faults = (statistics.median(column) for column in zip(*runs, strict=True))
        totals[mode] = statistics.median(run[0] + run[1] for run in runs)
        print(f"{mode}: {totals[mode]:.2f} s of CPU ({user:.2f} user, {system:.2f} system), {faults:,.0f} page faults")
    task = "training" if options.train else "forward passes"
    print(f"{options.backbone}, {task}: kept / returned {totals['kept'] / totals['returned']:.2f}")


if __name__ == "__main__":
    main()
