"""What it is worth that freed memory is kept for the next block of images (`memory.keep_freed_memory`).

    python perf/freed.py [--backbone "resnet18[width=32]"] [--blocks 8] [--repeats 3] [--train]

Blocks of 256 random images (3 x 32 x 32) go through a network on one thread, or with --train batches of 128 through a
step of cross-entropy in float32: in a process that keeps what it frees and in one that does not, in turn. Seconds are
of CPU, the system's part told apart; the ratio is of medians.
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

from oodbench.benchmark.plugins.specs import create, parse_spec
from oodbench.benchmark.stages import memory
from oodbench.benchmark.stages.extract import BLOCK

WARM = 2
TRAINED = 128


def used() -> list[float]:
    """CPU seconds of the program and of the system, and pages that came in."""
    found = resource.getrusage(resource.RUSAGE_SELF)
    return [found.ru_utime, found.ru_stime, found.ru_minflt]


def spent(backbone: str, blocks: int, train: bool) -> list[float]:
    """What some blocks take, after a few that do not count."""
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
    """Print a line each way, and the ratio."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18[width=32]")
    parser.add_argument("--blocks", type=int, default=8)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--child", choices=["kept", "anew"], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        with memory.keep_freed_memory() if given.child == "kept" else nullcontext():
            print(json.dumps(spent(given.backbone, given.blocks, given.train)))
        return
    found: dict[str, list[list[float]]] = {"anew": [], "kept": []}
    for _ in range(given.repeats):
        for how, runs in found.items():
            again = [sys.executable, __file__, *sys.argv[1:], "--child", how]
            runs.append(json.loads(subprocess.run(again, capture_output=True, check=True).stdout))
    totals = {}
    for how, runs in found.items():
        own, system, faults = (statistics.median(column) for column in zip(*runs, strict=True))
        totals[how] = statistics.median(run[0] + run[1] for run in runs)
        parts = f"{own:.2f} of the program, {system:.2f} of the system"
        print(f"{how}: {totals[how]:.2f} s of CPU ({parts}), {faults:,.0f} page faults")
    what = "training" if given.train else "passes"
    print(f"{given.backbone}, {what}: kept / anew {totals['kept'] / totals['anew']:.2f}")


if __name__ == "__main__":
    main()
