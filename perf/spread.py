"""Computes how a finished run's tasks, and those of OpenOOD's leaderboards, would spread over 1, 8 and 64 workers.

    python perf/spread.py results/runs/cifar10-small

This is a simulation, not a measurement: tasks, packed as by the engines, take the seconds recorded in the run's side
files, start as soon as they can, and go to the first free worker. A leaderboard's graph is that of the run with the
leaderboard's numbers of images, all costs in proportion to them, and the run's detectors; a training takes as long as
in the run. The overhead of the engines is left out (perf/scaling.py measures it).
"""

from __future__ import annotations

import argparse
import heapq
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from statistics import mean

from oodbench.benchmark.api import prepare
from oodbench.benchmark.engines.tasks import PART, WorkerTask, pack_tasks
from oodbench.benchmark.plan.jobs import ExtractJob, FitJob, Job, ReduceMapsJob, ScoreJob, TrainJob
from oodbench.benchmark.store.store import Store

WORKERS = (1, 8, 64)


@dataclass(frozen=True)
class Board:
    """Sizes of a leaderboard, from OpenOOD's lists: networks, training images, and test images by set, ID first."""

    title: str
    networks: int
    train: int
    test: tuple[int, ...]
    trains: bool = True


BOARDS = (
    Board("OpenOOD, CIFAR-10", 3, 50_000, (9_000, 9_000, 7_793, 70_000, 26_032, 5_640, 35_195)),
    Board("OpenOOD, ImageNet-1K", 1, 1_281_167, (45_000, 49_000, 5_879, 10_000, 5_160, 15_869), trains=False),
)


@dataclass(frozen=True)
class Piece:
    """A task: its name, its seconds, and the names of the tasks it depends on."""

    name: str
    seconds: float
    after: tuple[str, ...] = ()


class Costs:
    """The time that a run's jobs took, in seconds."""

    def __init__(self, store: Store, tasks: Sequence[WorkerTask]) -> None:
        self._store = store
        self._jobs = [job for task in tasks for job in task.jobs]
        self._passes = {job.id: job for job in self._jobs if isinstance(job, ExtractJob) and not job.rows}

    def of(self, job: Job) -> float:
        """Seconds of a job; a part of a pass takes its share, and joining parts takes none."""
        if isinstance(job, ReduceMapsJob):
            return 0.0
        if isinstance(job, ExtractJob):
            whole = self._passes[str(job.makes[0].content["of"])] if job.rows else job
            keys = [*whole.makes, *(reduction.makes[0] for reduction in whole.reductions)]
            seconds = max(self._recorded(key.digest, key.path) for key in keys)
            return 0.0 if job.parts else seconds * job.size / whole.size
        return self._recorded(job.id, job.makes[0].path)

    def _recorded(self, digest: str, path: str) -> float:
        key = self._store.key_of(path)
        return float(self._store.about(key).get("seconds", 0.0)) if key is not None and key.digest == digest else 0.0

    def training(self) -> float:
        """Mean seconds of a training."""
        return mean(self.of(job) for job in self._jobs if isinstance(job, TrainJob))

    def image(self) -> float:
        """Seconds per image in a pass."""
        whole = [job for job in self._passes.values() if not job.parts] or list(self._passes.values())
        return sum(map(self.of, whole)) / sum(job.size for job in whole)

    def detectors(self, kind: type[FitJob] | type[ScoreJob]) -> dict[str, float]:
        """Detector -> seconds per image in its fit or score."""
        by: dict[str, list[tuple[float, int]]] = {}
        for job in self._jobs:
            if isinstance(job, kind):
                by.setdefault(job.detector, []).append((self.of(job), job.size))
        return {name: sum(s for s, _ in some) / sum(n for _, n in some) for name, some in by.items()}


def pieces_of(board: Board, costs: Costs) -> Iterator[Piece]:
    """The task graph of a leaderboard."""
    image, fits, scores = costs.image(), costs.detectors(FitJob), costs.detectors(ScoreJob)
    for n in range(board.networks):
        yield Piece(f"train {n}", costs.training() if board.trains else 0.0)
        for place, images in enumerate((board.train, *board.test)):
            count = ceil(images / PART)
            parts = [Piece(f"part {n} {place} {p}", image * images / count, (f"train {n}",)) for p in range(count)]
            yield from parts
            yield Piece(f"pass {n} {place}", 0.0, tuple(part.name for part in parts))
        for name, seconds in fits.items():
            yield Piece(f"fit {n} {name}", seconds * board.train, (f"pass {n} 0",))
        for name, seconds in scores.items():
            for place, images in enumerate(board.test, 1):
                fitted = (f"fit {n} {name}",) if name in fits else ()
                yield Piece(f"score {n} {place} {name}", seconds * images, (f"pass {n} {place}", *fitted))


def makespan(pieces: Sequence[Piece], workers: int) -> float:
    """Seconds until all tasks are finished."""
    waiting = {piece.name: len(piece.after) for piece in pieces}
    after: dict[str, list[Piece]] = {}
    for piece in pieces:
        for name in piece.after:
            after.setdefault(name, []).append(piece)
    ready = [piece for piece in pieces if not piece.after]
    busy: list[tuple[float, int, Piece]] = []
    now, number = 0.0, 0
    while ready or busy:
        while ready and len(busy) < workers:
            piece = ready.pop(0)
            heapq.heappush(busy, (now + piece.seconds, number, piece))
            number += 1
        now, _, done = heapq.heappop(busy)
        for piece in after.get(done.name, []):
            waiting[piece.name] -= 1
            if not waiting[piece.name]:
                ready.append(piece)
    return now


def print_row(title: str, pieces: Sequence[Piece]) -> None:
    total, longest = sum(piece.seconds for piece in pieces), makespan(pieces, len(pieces))
    spans = {count: makespan(pieces, count) for count in WORKERS}
    row = " | ".join(f"{span / 3600:.2f} h ({total / span:.1f}x)" for span in spans.values())
    print(f"| {title} | {len(pieces)} | {row} | {longest / 3600:.2f} h |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a finished run")
    run_dir = parser.parse_args().run
    jobs: dict[str, Job] = {}
    for command in json.loads((run_dir / "run.json").read_text(encoding="utf-8"))["commands"]:
        options = {name: value for name, value in command.items() if name != "suite_toml"}
        made = prepare(**options, results=run_dir.parent.parent, name=run_dir.name, rerun="all")
        for job in made.work.jobs:
            known = jobs.get(job.id)
            if isinstance(known, ExtractJob) and isinstance(job, ExtractJob):
                job = max(known, job, key=lambda one: len(one.reductions))
            jobs[job.id] = job
    tasks = pack_tasks(list(jobs.values()))
    costs = Costs(made.context.store, tasks)
    print(f"{costs.training():.0f} s per training, {1000 * costs.image():.2f} ms per image in a pass")
    scores = sorted(costs.detectors(ScoreJob).items(), key=lambda item: -item[1])
    print("ms per image to score: " + ", ".join(f"{name} {1000 * seconds:.2f}" for name, seconds in scores[:8]))
    print(f"| | tasks | {' | '.join(f'{count} workers' for count in WORKERS)} | as many as tasks |")
    print_row(run_dir.name, [Piece(task.id, sum(map(costs.of, task.jobs)), task.after) for task in tasks])
    for board in BOARDS:
        print_row(board.title, list(pieces_of(board, costs)))


if __name__ == "__main__":
    main()
